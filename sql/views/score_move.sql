-- Why each portfolio's scores moved since the night before, by segment and for the whole: value_before plus all parts
-- is value_after. Across a change of inputs only leavers and entrants are told apart; the rest is from_inputs.
CREATE VIEW metarisk.score_move AS
SELECT
    m.portfolio, m.before_as_of, m.as_of, m.target, m.segment, m.measure, m.rows_before, m.rows_left, m.rows_entered,
    m.rows_after, m.value_before, m.from_leavers, m.from_entrants, m.from_data, m.from_adaptation, m.from_model,
    m.from_calibration, m.value_after, m.value_after - m.value_before AS change, p.is_latest, m.run_id, m.before_run_id,
    CASE
        WHEN m.from_data IS NULL THEN m.value_after - m.value_before - m.from_leavers - m.from_entrants
        ELSE 0.0
    END AS from_inputs
FROM metarisk.publication_current AS p
JOIN metarisk.score_move_part AS m ON m.run_id = p.run_id;
