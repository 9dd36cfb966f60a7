package archive_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/mdb/archive"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// A cut breaks the connection of some commits: before the server receives them, or before its answer arrives.
type cut struct {
	net.Conn

	commits *atomic.Int64
	answer  bool // the answer of the server to the commit is lost
}

func (c *cut) Write(b []byte) (int, error) {
	if bytes.Contains(bytes.ToLower(b), []byte("commit\x00")) {
		switch c.commits.Add(1) % 4 {
		case 1:
			_ = c.Close()
			return 0, io.ErrClosedPipe
		case 2:
			c.answer = true
		}
	}
	return c.Conn.Write(b)
}

func (c *cut) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.answer {
		_ = c.Close()
		return 0, io.ErrUnexpectedEOF
	}
	return n, err
}

// TestImportUnknownOutcome checks that an import writes each message once if connections break during commits, whether or not
// the server has committed.
func TestImportUnknownOutcome(t *testing.T) {
	t.Parallel()
	from, to := mdbtest.Store(t), mdbtest.Store(t)
	seed(t, from, 5200, 10)
	lines := export(t, from, archive.ExportOptions{})
	commits, dialer := new(atomic.Int64), net.Dialer{Timeout: time.Minute}
	cutting := open(t, to, func(cfg *pgxpool.Config) {
		cfg.ConnConfig.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return &cut{Conn: conn, commits: commits}, nil
		}
	})
	done, err := archive.Import(t.Context(), cutting, strings.NewReader(lines), archive.ImportOptions{})
	if err != nil || done.Written+done.Found != 5200 || done.Found == 0 {
		t.Errorf("got %+v, %v, want 5200 messages, of which some are found", done, err)
	}
	if n := commits.Load(); n < 6 {
		t.Errorf("%d commits, want those of six batches, and more", n)
	}
	if got, want := same(t, export(t, to, archive.ExportOptions{}), false), same(t, lines, false); got != want {
		t.Error("the copy is different")
	}
}
