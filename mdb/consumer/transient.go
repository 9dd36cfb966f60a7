package consumer

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/messagedb-go/messagedb/mdb"
)

// A message is not to blame for the first serialization failures and lost connections. If
// there are as many in a row, it may be: a message whose handling ends the server's process
// would otherwise be repeated forever.
const (
	conflictsUncounted = 9
	lossesUncounted    = 2
)

// streaks count failures in a row that are not a message's.
type streaks struct {
	conflicts int // serialization failures and deadlocks
	losses    int // lost connections
	outages   int // failures that never count
}

// repeat reports whether a failure does not count as an attempt, and how long to wait then.
func (s *streaks) repeat(err error) (d time.Duration, repeat bool) {
	what, after := said(err)
	switch {
	case what == toWait || what == byDefault && isOutage(err):
		s.outages++
		d = patient.Delay(s.outages)
		if after > 0 {
			d = after
		}
		return d, true
	case what == byDefault && isConflict(err):
		s.conflicts++
		return patient.Delay(s.conflicts), s.conflicts <= conflictsUncounted
	case what == byDefault && isLoss(err):
		s.losses++
		return patient.Delay(s.losses), s.losses <= lossesUncounted
	}
	*s = streaks{}
	return 0, false
}

// isOutage reports whether the server could not be reached.
func isOutage(err error) bool {
	return errors.Is(err, mdb.ErrUnavailable) || errors.As(err, new(*pgconn.ConnectError)) && mdb.IsTransient(err)
}

// isConflict reports whether other transactions were in the way.
func isConflict(err error) bool {
	code := codeOf(err)
	return code == "40001" || code == "40P01"
}

// isLoss reports whether the connection was lost, or the server has changed its role. A
// session that the server has ended because the handler took too long, 25P03, is not lost.
func isLoss(err error) bool {
	switch code := codeOf(err); code {
	case "":
		return errors.As(err, new(*lostError)) || errors.As(err, new(*mdb.UnknownOutcomeError)) || mdb.IsTransient(err)
	case "25006", "57P01", "57P02", "57P03":
		return true
	default:
		return code[:min(2, len(code))] == "08"
	}
}

// readOnly returns the error of a write. If the server has rejected it because the store's pool leads to a
// standby or a read-only server, that is nobody's fault, however often it happens.
func (r *running) readOnly(ctx context.Context, err error) error {
	if !isReadOnly(err) || !r.link.ReadOnly(ctx, err) {
		return err
	}
	if what, _ := said(err); what == byDefault {
		return Transient(err)
	}
	return err
}

func codeOf(err error) string {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		return pgErr.Code
	}
	return ""
}
