-- Every loan of the demo opened by $as_of; what became known later is null.
SELECT
    l.loan_id,
    l.opened_on,
    l.region,
    l.product,
    CASE WHEN o.outcome = 'defaulted' THEN o.event_date END AS event_date,
    CASE WHEN o.outcome = 'defaulted' THEN o.known_date END AS known_date,
    CASE WHEN o.outcome = 'repaid' THEN o.event_date END AS exit_date,
    l.amount,
    l.term_months,
    l.income,
    l.amount / NULLIF(l.income, 0) AS burden,
    l.debt_to_income,
    l.utilisation,
    l.bureau_score,
    l.inquiries_6m,
    l.months_since_delinquency,
    l.employment,
    l.channel,
    l.home,
    l.first_credit_on,
    l.age_band,
    CAST(CASE WHEN l.product = 'car_loan' THEN 0.35 ELSE 0.6 END AS DOUBLE PRECISION) AS lgd
FROM source.demo_loans AS l
LEFT JOIN source.demo_outcomes AS o
    ON o.loan_id = l.loan_id AND o.known_date <= $as_of
WHERE l.opened_on <= $as_of
