"""The pages that the Airflow plugin shows: read-only, from the store alone."""
