-- Economic capital of operational losses, by cell and for the sums: one line an item of each portfolio's latest night.
CREATE VIEW metarisk.capital_current AS
SELECT
    m.portfolio,
    m.as_of,
    m.item,
    MAX(CASE WHEN m.metric = 'expected_loss' THEN m.value END) AS expected_loss,
    MAX(CASE WHEN m.metric = 'year_999' THEN m.value END) AS year_999,
    MAX(CASE WHEN m.metric = 'year_999' THEN m.low END) AS year_999_low,
    MAX(CASE WHEN m.metric = 'year_999' THEN m.high END) AS year_999_high,
    MAX(CASE WHEN m.metric = 'economic_capital' THEN m.value END) AS economic_capital,
    MAX(CASE WHEN m.metric = 'simulated_year_999' THEN m.low END) AS simulated_low,
    MAX(CASE WHEN m.metric = 'simulated_year_999' THEN m.high END) AS simulated_high,
    MAX(CASE WHEN m.metric = 'tail_shape' THEN m.value END) AS tail_shape,
    MAX(CASE WHEN m.metric = 'losses' THEN m.value END) AS losses,
    MAX(m.note) AS note
FROM metarisk.measure_current AS m
WHERE m.kind = 'capital'
GROUP BY m.portfolio, m.as_of, m.item
