-- One row a night, target and grade: how many entities, how risky, and the loss that is expected of them.
CREATE VIEW metarisk.grade_summary AS
SELECT
    portfolio, as_of, target, grade, count(*) AS entities, avg(score) AS mean_score, sum(expected_loss) AS expected_loss
FROM metarisk.score_history
WHERE grade IS NOT NULL
GROUP BY portfolio, as_of, target, grade;
