"""Rules: functions z -> z that a chain runs before a token is taken."""
