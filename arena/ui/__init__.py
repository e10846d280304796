"""The voting page: Streamlit draws it, votes and clips travel over our own HTTP routes."""
