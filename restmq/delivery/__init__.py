"""Carries elements to live consumers and to GETs that wait. Knows neither HTTP nor how Redis is spoken to."""
