package ledger_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/ledger"
)

// keeper is a member that has the only partition of a shop.
type keeper struct {
	*shop
	m ledger.Member
	r ledger.Row
}

func newKeeper(t testing.TB) *keeper {
	t.Helper()
	s := newShop(t)
	p := s.params(s.one)
	p.Partitions = 1
	m := s.join(p)
	_, held := s.balance(m)
	return &keeper{s, m, held.Rows[0]}
}

// parks parks a stream of a key, or a message alone.
func (k *keeper) parks(stream string, position, global int64, alone bool) {
	k.Helper()
	p := ledger.Parked{Key: strings.TrimPrefix(stream, "-")[:1], Stream: k.one + stream, Position: position, GlobalPosition: global, Attempts: 3}
	if alone {
		p.Upto = &position
	}
	if err := k.park(k.m, k.r, p, "text"); err != nil {
		k.Fatal(err)
	}
}

// parked returns the streams and positions of what is parked.
func (k *keeper) parked() (list []string) {
	k.Helper()
	for _, p := range k.read(k.m).Parked {
		text := fmt.Sprintf("%s %d", strings.TrimPrefix(p.Stream, k.one), p.Position)
		if p.Upto != nil {
			text += " alone"
		}
		if p.Due != nil {
			text += " due"
		}
		list = append(list, text)
	}
	slices.Sort(list)
	return list
}

// replays moves a parked stream on, message by message.
func (k *keeper) replays(stream string, from, upto int64) {
	k.Helper()
	epoch := k.read(k.m).Rows[0].Epoch
	for position := from; position < upto; position++ {
		if err := k.send(func(b *pgx.Batch) {
			ledger.QueueReplayed(b, k.m, k.r.Partition, epoch, k.one+stream, position, position+1)
		}); err != nil {
			k.Fatalf("the replay of message %d: %v", position, err)
		}
	}
}

// waits returns when a session waits for a lock of the transaction, which lets what it does end.
func (k *keeper) waits(tx pgx.Tx, ended <-chan error) {
	k.Helper()
	for waits := false; !waits; {
		select {
		case err := <-ended:
			k.Fatalf("it does not wait: %v", err)
		case <-time.After(5 * time.Millisecond):
		}
		waits = query[bool](k.group, `SELECT EXISTS (SELECT FROM pg_locks AS l WHERE $1 > 0 AND NOT l.granted AND $2 = ANY (pg_blocking_pids(l.pid)))`, tx.Conn().PgConn().PID())
	}
}
