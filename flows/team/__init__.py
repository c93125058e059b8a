"""What a team's servers need beyond a workspace: MLflow with rights, a bucket, a checkout; see docs/team.md."""
