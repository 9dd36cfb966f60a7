package mdb

import (
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// TestIsCancelledWait checks that a cancelled wait is recognized in every language, and
// that no other notice is treated as one.
func TestIsCancelledWait(t *testing.T) {
	t.Parallel()
	const english, german = "canceling wait for synchronous replication due to user request", "storniere Warten auf synchrone Replikation wegen Benutzeraufforderung"
	for _, tt := range []struct {
		notice pgconn.Notice
		want   bool
	}{
		{pgconn.Notice{Code: "01000", Routine: "SyncRepWaitForLSN", Message: english}, true},
		{pgconn.Notice{Code: "01000", Routine: "SyncRepWaitForLSN", Message: german}, true},
		{pgconn.Notice{Code: "01000", Routine: "exec_stmt_raise", Message: english}, false},
		{pgconn.Notice{Code: "00000", Routine: "SyncRepWaitForLSN", Message: "SyncRepWaitForLSN"}, false}, // for a client that asks for debugging output
	} {
		if got := isCancelledWait(&tt.notice); got != tt.want {
			t.Errorf("%+v: got %t, want %t", tt.notice, got, tt.want)
		}
	}
}

// TestConfigureKeepsOnNotice checks that the handler of the configuration is still called,
// once for each notice.
func TestConfigureKeepsOnNotice(t *testing.T) {
	t.Parallel()
	cfg, err := pgxpool.ParseConfig("host=localhost")
	if err != nil {
		t.Fatal(err)
	}
	var got []*pgconn.Notice
	cfg.ConnConfig.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { got = append(got, n) }
	Configure(cfg, BehindPooler())
	Configure(cfg)
	n := &pgconn.Notice{Code: "00000", Message: "hello"}
	cfg.ConnConfig.OnNotice(nil, n)
	if len(got) != 1 || got[0] != n {
		t.Errorf("got %v, want the notice", got)
	}
}
