"""Operators: users, passwords, roles, sessions, and the audit trail."""
