-- One message is done, if the transaction of the application that this is part of commits.
SELECT c.outcome, c.transaction FROM {schema}.commit_in($1, $2, $3, $4, $5, $6, $7) c
