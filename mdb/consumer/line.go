package consumer

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/beside"
	"github.com/messagedb-go/messagedb/internal/ledger"
	"github.com/messagedb-go/messagedb/mdb"
)

// closeTimeout limits how long the end of a connection is waited for.
const closeTimeout = time.Second

// A line is the connection of the ticks of all consumers of a Store. It is not one of the
// pool, because handlers may hold all of these for longer than a lease.
type line struct {
	connect func(ctx context.Context) (*pgx.Conn, error)
	turn    chan struct{} // has a buffer of one; who has put a value in it uses the following
	stale   atomic.Bool   // the connection may lead to a server that is not the primary any more

	conn    *pgx.Conn // nil: none
	session int64     // counts the connections
}

// lines are those of the Stores that have running consumers.
var lines struct {
	sync.Mutex

	of map[*mdb.Store]*sharedLine
}

type sharedLine struct {
	line
	users int
}

func besideOf(s *mdb.Store) beside.Store {
	return beside.Of.(func(*mdb.Store) beside.Store)(s) //nolint:forcetypeassert // what mdb sets
}

// lineOf returns the line of a Store, and a function to call when it is no longer used.
func lineOf(s *mdb.Store) (*line, func()) {
	lines.Lock()
	defer lines.Unlock()
	shared := lines.of[s]
	if shared == nil {
		shared = &sharedLine{line: line{connect: besideOf(s).Connect, turn: make(chan struct{}, 1)}}
		if lines.of == nil {
			lines.of = make(map[*mdb.Store]*sharedLine)
		}
		lines.of[s] = shared
	}
	shared.users++
	return &shared.line, func() {
		lines.Lock()
		defer lines.Unlock()
		if shared.users--; shared.users == 0 {
			delete(lines.of, s)
			shared.hangUp()
		}
	}
}

// do calls f with the connection, after it has opened one if there is none. session says
// which one it was, and is 0 if there was none.
func (l *line) do(ctx context.Context, f func(session int64, conn onConn) error) (session int64, err error) {
	select {
	case l.turn <- struct{}{}:
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
	defer func() { <-l.turn }()
	if l.stale.Swap(false) {
		l.hangUp() //nolint:contextcheck // closing has a timeout of its own
	}
	if l.conn == nil {
		if l.conn, err = l.connect(ctx); err != nil {
			l.conn = nil
			return 0, err
		}
		l.session++
	}
	defer func() { //nolint:contextcheck // closing has a timeout of its own
		// A session that may not write is on a standby, or on a primary that is no longer one.
		if isReadOnly(err) || l.conn.IsClosed() || l.conn.PgConn().IsBusy() || l.conn.PgConn().TxStatus() != 'I' {
			l.hangUp()
		}
	}()
	err = f(l.session, onConn{l.conn})
	return l.session, err
}

// hangUp closes the connection.
func (l *line) hangUp() {
	if l.conn != nil {
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
		defer cancel()
		_ = l.conn.Close(ctx)
		l.conn = nil
	}
}

// A protocol has the statements of a member. Tests replace it.
type protocol interface {
	version(ctx context.Context) (int, error)
	join(ctx context.Context, p ledger.JoinParams) (ledger.Joined, error)
	beat(ctx context.Context, m ledger.Member, info string, moves []ledger.Move) (ledger.Tick, error)
	rebalance(ctx context.Context, m ledger.Member, forgotten []ledger.Row) (ledger.Balance, ledger.Held, error)
	read(ctx context.Context, m ledger.Member) (ledger.Held, error)
	release(ctx context.Context, m ledger.Member, moves []ledger.Move) ([]int, error)
	leave(ctx context.Context, m ledger.Member, moves []ledger.Move) error
	due(ctx context.Context, m ledger.Member) ([]ledger.Key, error)
	// ends returns the positions of the categories' last messages, or 0.
	ends(ctx context.Context, categories []string) ([]int64, error)
	// reached reports whether all checkpoints of the consumer are at least at the positions,
	// or at the categories' ends if these are lower, and no replay is due.
	reached(ctx context.Context, consumer int64, categories []string, positions []int64) (bool, error)
}

// onConn sends the statements on a connection.
type onConn struct{ conn *pgx.Conn }

func (c onConn) version(ctx context.Context) (v int, err error) {
	err = c.conn.QueryRow(ctx, "SELECT message_store_consumers.version()").Scan(&v)
	return v, err
}

func (c onConn) join(ctx context.Context, p ledger.JoinParams) (ledger.Joined, error) {
	return ledger.Join(ctx, c.conn, p)
}

func (c onConn) beat(ctx context.Context, m ledger.Member, info string, moves []ledger.Move) (ledger.Tick, error) {
	return ledger.Beat(ctx, c.conn, m, info, moves)
}

func (c onConn) rebalance(ctx context.Context, m ledger.Member, forgotten []ledger.Row) (ledger.Balance, ledger.Held, error) {
	return ledger.Rebalance(ctx, c.conn, m, forgotten...)
}

func (c onConn) read(ctx context.Context, m ledger.Member) (ledger.Held, error) {
	return ledger.Read(ctx, c.conn, m)
}

func (c onConn) release(ctx context.Context, m ledger.Member, moves []ledger.Move) ([]int, error) {
	return ledger.Release(ctx, c.conn, m, moves)
}

func (c onConn) leave(ctx context.Context, m ledger.Member, moves []ledger.Move) error {
	return ledger.Leave(ctx, c.conn, m, moves)
}

func (c onConn) due(ctx context.Context, m ledger.Member) ([]ledger.Key, error) {
	return ledger.Due(ctx, c.conn, m)
}

// sqlEnd is the last position of a category. It is not an equality, with which PostgreSQL may scan
// the whole table by its primary key.
const sqlEnd = `coalesce((
	SELECT m.global_position FROM message_store.messages AS m
	WHERE message_store.category(m.stream_name) >= w.category AND message_store.category(m.stream_name) <= w.category
	ORDER BY message_store.category(m.stream_name) DESC, m.global_position DESC LIMIT 1
), 0)`

const sqlEnds = `SELECT ` + sqlEnd + ` FROM pg_catalog.unnest($1::text[]) WITH ORDINALITY AS w(category, n) ORDER BY w.n`

func (c onConn) ends(ctx context.Context, categories []string) ([]int64, error) {
	rows, _ := c.conn.Query(ctx, sqlEnds, categories)
	return pgx.CollectRows(rows, pgx.RowTo[int64])
}

const (
	sqlReached = `WITH ends AS MATERIALIZED (
	SELECT w.category, least(w.position, ` + sqlEnd + `) AS position
	FROM ROWS FROM (pg_catalog.unnest($2::text[]), pg_catalog.unnest($3::bigint[])) AS w(category, position)
)
` + sqlEndsReached

	sqlEndsReached = `SELECT NOT EXISTS (
	SELECT FROM ends AS e
	JOIN message_store_consumers.checkpoints AS c ON c.consumer = $1::bigint AND c.category = e.category
	WHERE c.position < e.position
) AND NOT EXISTS (
	SELECT FROM message_store_consumers.parked AS p
	WHERE p.consumer = $1::bigint AND p.category = ANY ($2::text[]) AND p.due <= pg_catalog.clock_timestamp())`
)

func (c onConn) reached(ctx context.Context, consumer int64, categories []string, positions []int64) (yes bool, err error) {
	err = c.conn.QueryRow(ctx, sqlReached, consumer, categories, positions).Scan(&yes)
	return yes, err
}
