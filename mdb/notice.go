package mdb

import (
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// A commit that waits for a synchronous standby has happened on the primary. If the wait is
// cancelled, by pg_cancel_backend for example, the server reports success, and before it a
// notice. A failover may then lose what was written. So the outcome of a write is unknown
// after such a notice, like that of a write whose connection was lost.

// cancelledWaitKey marks a connection that has received such a notice.
const cancelledWaitKey = "github.com/messagedb-go/messagedb/mdb/cancelled_wait"

// cancelledWaitProbe is handled like such a notice, but is not passed on.
var cancelledWaitProbe = &pgconn.Notice{Severity: "DEBUG", SeverityUnlocalized: "DEBUG", Code: "00000", Message: "mdb: a test of whether the store receives notices"}

// isCancelledWait reports whether the notice is that of a cancelled wait. The server
// translates its text, which is all that PL/Proxy passes on.
func isCancelledWait(n *pgconn.Notice) bool {
	if n == cancelledWaitProbe {
		return true
	}
	if n.Code != "01000" {
		return false
	}
	_, text, remote := remoteError(n.Message)
	return n.Routine == "SyncRepWaitForLSN" || remote && strings.HasPrefix(text, "canceling wait for synchronous replication")
}

// markCancelledWaits returns a handler that marks the connection, and calls next.
func markCancelledWaits(next pgconn.NoticeHandler) pgconn.NoticeHandler {
	return func(conn *pgconn.PgConn, n *pgconn.Notice) {
		if isCancelledWait(n) {
			conn.CustomData()[cancelledWaitKey] = true
		}
		if next != nil && n != cancelledWaitProbe {
			next(conn, n)
		}
	}
}

// forgetCancelledWait removes the mark of an earlier statement.
func forgetCancelledWait(conn *pgx.Conn) { delete(conn.PgConn().CustomData(), cancelledWaitKey) }

// checkWait returns err, the error of what the connection has done since
// forgetCancelledWait, or an error if it has succeeded, but has not waited for a standby.
func checkWait(conn *pgx.Conn, err error) error {
	if err == nil && conn.PgConn().CustomData()[cancelledWaitKey] != nil {
		return errCancelledWait
	}
	return err
}

// receivesNotices reports whether the connection's notices reach markCancelledWaits.
func receivesNotices(conn *pgx.Conn) bool {
	handle := conn.Config().OnNotice
	if handle == nil {
		return false
	}
	forgetCancelledWait(conn)
	handle(conn.PgConn(), cancelledWaitProbe)
	received := checkWait(conn, nil) != nil
	forgetCancelledWait(conn)
	return received
}

// A cancelledWaitError is the error of a transaction that has committed, and whose wait for a
// synchronous standby was cancelled.
type cancelledWaitError struct{}

var errCancelledWait error = &cancelledWaitError{}

func (*cancelledWaitError) Error() string {
	return "the server has committed, but its wait for a synchronous standby was cancelled, so a failover may undo it"
}
