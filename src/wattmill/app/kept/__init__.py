"""What a factory keeps for its tenants: cached answers, stored responses, files, claims. One bounded file."""
