-- Every loan opened by $as_of, with what was known of its end by then; what became known later is null.
SELECT
    l.id,
    l.issue_d,
    l.purpose,
    l.addr_state,
    CASE WHEN o.outcome = 'charged_off' THEN o.event_date END AS event_date,
    CASE WHEN o.outcome = 'charged_off' THEN o.known_date END AS known_date,
    CASE WHEN o.outcome = 'fully_paid' THEN o.event_date END AS exit_date,
    l.loan_amnt,
    l.term,
    l.int_rate,
    l.installment,
    5 * (ascii(l.sub_grade) - ascii('A')) + CAST(substr(l.sub_grade, 2, 1) AS INTEGER) AS sub_grade,
    CASE
        WHEN l.emp_length = '< 1 year' THEN 0
        WHEN l.emp_length = '10+ years' THEN 10
        WHEN l.emp_length LIKE '% year%' THEN CAST(split_part(l.emp_length, ' ', 1) AS INTEGER)
    END AS emp_length,
    l.home_ownership,
    l.annual_inc,
    l.verification_status,
    l.dti,
    l.delinq_2yrs,
    l.earliest_cr_line,
    l.inq_last_6mths,
    l.mths_since_last_delinq,
    l.mths_since_last_record,
    l.open_acc,
    l.pub_rec,
    l.revol_bal,
    l.revol_util,
    l.total_acc,
    l.pub_rec_bankruptcies,
    l.loan_amnt / greatest(l.annual_inc, 1) AS loan_to_income,
    12 * l.installment / greatest(l.annual_inc, 1) AS installment_to_income
FROM source.loans AS l
LEFT JOIN source.outcomes AS o
    ON o.id = l.id AND o.known_date <= $as_of
WHERE l.issue_d <= $as_of
