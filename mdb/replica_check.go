package mdb

import (
	"context"
	"errors"
)

// check returns what is wrong with the replica. Nothing is wrong with one that lags, or that cannot be reached
// now, except that Check cannot look at it.
func (r *replica) check(ctx context.Context) error {
	if r.store.pool.Config().ConnConfig.ConnectTimeout <= 0 {
		return &SetupError{
			Problem: "the replica's pool has no connect timeout, so reads wait for two minutes if the replica does not answer",
			Remedy:  "prepare the pool's configuration with Configure, or set connect_timeout in the connection string, such as connect_timeout=2",
		}
	}
	if err := r.sameCluster(ctx); err != nil {
		return contextError(ctx, err)
	}
	if _, err := r.reached(ctx, "0/0"); err != nil {
		if errors.Is(err, errNotStandby) {
			return &SetupError{
				Problem: "the server of the replica is not a standby, so reads use the primary",
				Remedy:  "let its connection string lead to a standby, for example with target_session_attrs=standby",
				err:     err,
			}
		}
		return contextError(ctx, err)
	}
	return nil
}
