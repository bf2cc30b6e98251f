"""The parts that methods are composed of: schedules, scores, views, distributions, scopes."""
