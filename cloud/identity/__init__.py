"""Who is calling on the vehicle port: the internal CA, enrolment, renewal, revocation, certificates as identity."""
