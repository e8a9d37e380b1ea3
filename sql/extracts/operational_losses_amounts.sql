-- Every loss that was known by $as_of, as it was booked.
SELECT
    l.loss_id,
    x.business_line,
    l.event_type,
    l.occurred_on,
    l.known_on,
    l.amount,
    l.currency
FROM source.demo_op_losses AS l
JOIN (SELECT DISTINCT unit_id, business_line FROM source.demo_op_exposures) AS x ON x.unit_id = l.unit_id
WHERE l.known_on <= $as_of
