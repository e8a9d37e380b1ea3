-- A champion that a person took back: no night uses it any more.
ALTER TABLE metarisk.model_state DROP CONSTRAINT model_state_state_check;
ALTER TABLE metarisk.model_state ADD CONSTRAINT model_state_state_check
    CHECK (state IN ('candidate', 'approved', 'champion', 'retired', 'withdrawn'));
