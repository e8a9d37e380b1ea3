-- Every mine and year that had begun by $as_of; injuries are known when the year is over.
SELECT
    m.id,
    m.opened_on,
    COALESCE(m.us_state, '?') AS us_state,
    m.commodity,
    CASE WHEN m.known_date <= $as_of THEN CAST(m.num_injuries AS DOUBLE PRECISION) END AS injuries,
    CASE WHEN m.known_date <= $as_of THEN m.known_date END AS known_date,
    CAST(m.emp_hrs_total AS DOUBLE PRECISION) AS hours,
    m.type_of_mine,
    m.mine_status,
    LN(m.avg_emp_total) AS log_employees,
    CAST(m.emp_hrs_total AS DOUBLE PRECISION) / m.avg_emp_total AS hours_per_employee,
    m.seam_height,
    m.pct_hrs_underground,
    m.pct_hrs_surface,
    m.pct_hrs_strip,
    m.pct_hrs_auger,
    m.pct_hrs_culm_bank,
    m.pct_hrs_dredge,
    m.pct_hrs_other_surface,
    m.pct_hrs_shop_yard,
    m.pct_hrs_mill_prep,
    m.pct_hrs_office
FROM source.mine_years AS m
WHERE m.opened_on <= $as_of
