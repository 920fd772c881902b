//! Workload identity: the CA, join tokens, enrolment, SVIDs and trust bundles.
