"""The consumers turn raw deliveries into the shared Avro VerificationEvent."""
