-- Vehicle claims of 1994 and 1995. A claim is dated by the first day of the week in which it was made: the file has no days.
-- Nothing tells when a fraud was found out; it is taken as known thirty days after the claim, and so is its absence.
WITH dated AS (
    SELECT
        *,
        (strpos('JanFebMarAprMayJunJulAugSepOctNovDec', "Month") + 2) / 3 AS accident_month,
        CASE
            WHEN "MonthClaimed" = '0' THEN (strpos('JanFebMarAprMayJunJulAugSepOctNovDec', "Month") + 2) / 3
            ELSE (strpos('JanFebMarAprMayJunJulAugSepOctNovDec', "MonthClaimed") + 2) / 3
        END AS claim_month,
        CASE WHEN "MonthClaimed" = '0' THEN "WeekOfMonth" ELSE "WeekOfMonthClaimed" END AS claim_week
    FROM source.vehicle_claims
),
claims AS (
    SELECT
        *,
        -- A claim of an earlier month than its accident was made in the year after.
        CAST(
            DATE '1994-01-01'
            + INTERVAL '1 month' * CAST(
                12 * ("Year" - 1994 + CASE WHEN claim_month < accident_month THEN 1 ELSE 0 END) + claim_month - 1
                AS INTEGER
            )
            + INTERVAL '7 days' * CAST(claim_week - 1 AS INTEGER) AS DATE
        ) AS claimed_on
    FROM dated
)
SELECT
    "PolicyNumber" AS policy_number,
    claimed_on,
    "Make" AS make,
    "PolicyType" AS policy_type,
    CASE WHEN fraud = 1 AND claimed_on + 30 <= $as_of THEN claimed_on + 30 END AS found_on,
    "Sex" AS sex,
    claim_month - accident_month + CASE WHEN claim_month < accident_month THEN 12 ELSE 0 END AS months_to_claim,
    "Age" AS age,
    "Deductible" AS deductible,
    "DriverRating" AS driver_rating,
    "AccidentArea" AS accident_area,
    "DayOfWeek" AS accident_day,
    "DayOfWeekClaimed" AS claim_day,
    "MaritalStatus" AS marital_status,
    "Fault" AS fault,
    "VehicleCategory" AS vehicle_category,
    "VehiclePrice" AS vehicle_price,
    "Days:Policy-Accident" AS days_policy_accident,
    "Days:Policy-Claim" AS days_policy_claim,
    "PastNumberOfClaims" AS past_claims,
    "AgeOfVehicle" AS vehicle_age,
    "AgeOfPolicyHolder" AS holder_age,
    "PoliceReportFiled" AS police_report,
    "WitnessPresent" AS witness,
    "AgentType" AS agent,
    "NumberOfSuppliments" AS supplements,
    "AddressChange-Claim" AS address_change,
    "NumberOfCars" AS cars
FROM claims
WHERE claimed_on <= $as_of
