package consumer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/messagedb-go/messagedb/internal/ledger"
)

// A positionRecord is the last message of a position stream.
type positionRecord struct {
	version  int64 // its position in the stream; -1: the stream is empty
	id       string
	position int64 // what it says
	err      error // why it says no position; nil: it does
}

// positionType is the type of a position stream's messages.
const positionType = "Recorded"

// parsePosition returns what a message of a position stream says.
func parsePosition(typ, data string) (position int64, err error) {
	var recorded struct{ Position *int64 }
	switch {
	case typ != positionType:
		return 0, fmt.Errorf("it has the type %q instead of %s", typ, positionType)
	case json.Unmarshal([]byte(data), &recorded) != nil || recorded.Position == nil || *recorded.Position < 0:
		return 0, errors.New("its data contains no position")
	}
	return *recorded.Position, nil
}

// positionData is the data of a position stream's message.
func positionData(position int64) string {
	return `{"position": ` + strconv.FormatInt(position, 10) + `}`
}

// What became of a position that was to be stored.
type storedPosition int

const (
	positionStored   storedPosition = iota
	positionOutdated                // the stream has another version
	positionRejected                // what it says may not be true of this server: history is another one
)

// A positionDB has the statements of position streams. Tests replace it.
type positionDB interface {
	// last returns the last message of a stream, and the timeline of the server. With blind, the timeline is not asked for.
	last(ctx context.Context, stream string, blind bool) (r positionRecord, timeline string, err error)
	// store adds a message to a stream, if the stream has the expected version, the server has the anchor of the position
	// unless that is zero, and its timeline is that of s unless that is empty.
	store(ctx context.Context, s positionToStore) (storedPosition, error)
	// has reports whether a stream has a message that was its last one.
	has(ctx context.Context, stream string, r positionRecord) (bool, error)
	ends(ctx context.Context, categories []string) ([]int64, error)
	// used returns the last global position that the store has used.
	used(ctx context.Context) (int64, error)
}

// A positionToStore is a message that is added to a position stream.
type positionToStore struct {
	stream   string
	id       uuid.UUID
	position int64
	expected int64
	anchor   ledger.Anchor
	timeline string
	blind    bool
	async    bool // the server does not wait for the disk or a standby
}

// sqlTimeline is what message_store_consumers.timeline returns.
const sqlTimeline = `CASE WHEN NOT pg_catalog.pg_is_in_recovery() THEN
	pg_catalog.left(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 8) || '/' || (
		SELECT d.oid FROM pg_catalog.pg_database AS d WHERE d.datname = pg_catalog.current_database()
	) END`

const sqlLastPosition = `SELECT pg_catalog.pg_is_in_recovery() OR pg_catalog.current_setting('transaction_read_only')::boolean, coalesce(%s, ''),
	m.position, m.id::text, m.type::text, m.data::text
FROM (SELECT 1) AS one LEFT JOIN LATERAL (
	SELECT l.position, l.id, l.type, l.data FROM message_store.messages AS l WHERE l.stream_name = $1::text ORDER BY l.position DESC LIMIT 1
) AS m ON true`

// sqlStorePosition writes nothing if the timeline is another one or the anchor is missing. The count makes PostgreSQL look for
// it by its ID.
const sqlStorePosition = `SELECT CASE WHEN ($8::text = '' OR $8::text = %s) AND ($5::uuid IS NULL OR 0 < (
	SELECT pg_catalog.count(*) FROM message_store.messages AS m
	WHERE m.id = $5::uuid AND m.global_position <= $6::bigint AND ($7::timestamptz IS NULL OR m.time = pg_catalog.timezone('UTC', $7::timestamptz))
)) THEN message_store.write_message($1::varchar, $2::varchar, '` + positionType + `'::varchar, $3::jsonb, NULL::jsonb, $4::bigint) END`

// sqlPrepareStore lets Message DB's function find its tables.
const sqlPrepareStore = `SELECT pg_catalog.set_config('search_path', 'message_store, ' || pg_catalog.current_setting('search_path'), true),
	pg_catalog.set_config('lock_timeout', $1::text, true),
	pg_catalog.set_config('synchronous_commit', CASE WHEN $2::boolean THEN 'off' ELSE pg_catalog.current_setting('synchronous_commit') END, true)`

// asking returns a statement with the timeline, or with NULL instead.
func asking(sql string, blind bool) string {
	if blind {
		return fmt.Sprintf(sql, "NULL::text")
	}
	return fmt.Sprintf(sql, sqlTimeline)
}

// errReadOnlyServer is what a server answers to a write.
var errReadOnlyServer = &pgconn.PgError{Severity: "ERROR", Code: "25006", Message: "the server is a standby, or its transactions are read-only"}

// lastPosition is positionDB.last.
func lastPosition(ctx context.Context, q ledger.Querier, stream string, blind bool) (r positionRecord, timeline string, err error) {
	rows, _ := q.Query(ctx, asking(sqlLastPosition, blind), stream)
	_, err = pgx.CollectExactlyOneRow(rows, func(row pgx.CollectableRow) (struct{}, error) {
		var readOnly bool
		var version *int64
		var id, typ, data *string
		if err := row.Scan(&readOnly, &timeline, &version, &id, &typ, &data); err != nil {
			return struct{}{}, err
		}
		r = positionRecord{version: -1}
		if readOnly { // it would only be noticed when a position is stored
			return struct{}{}, errReadOnlyServer
		}
		if version != nil {
			r.version, r.id = *version, *id
			if data == nil {
				data = new(string)
			}
			r.position, r.err = parsePosition(*typ, *data)
		}
		return struct{}{}, nil
	})
	return r, timeline, err
}

// storePosition is positionDB.store.
func storePosition(ctx context.Context, q ledger.Querier, s positionToStore) (storedPosition, error) {
	var b pgx.Batch
	wait := time.Minute
	if deadline, ok := ctx.Deadline(); ok {
		wait = max(time.Until(deadline)/2, time.Millisecond) // a context that ends would break the connection
	}
	b.Queue(sqlPrepareStore, strconv.FormatInt(wait.Milliseconds(), 10), s.async)
	var written *int64
	b.Queue(asking(sqlStorePosition, s.blind), s.id.String(), s.stream, positionData(s.position), s.expected,
		pgtype.UUID{Bytes: s.anchor.ID, Valid: s.anchor.ID != uuid.Nil}, s.position,
		pgtype.Timestamptz{Time: s.anchor.Time, Valid: !s.anchor.Time.IsZero()}, s.timeline).QueryRow(func(row pgx.Row) error { return row.Scan(&written) })
	err := q.SendBatch(ctx, &b).Close()
	var pgErr *pgconn.PgError
	switch {
	case errors.As(err, &pgErr) && (pgErr.Code == "P0001" && strings.HasPrefix(pgErr.Message, "Wrong expected version") || pgErr.Code == "23505"):
		return positionOutdated, nil
	case err != nil:
		return 0, err
	case written == nil:
		return positionRejected, nil
	}
	return positionStored, nil
}

func (c onConn) last(ctx context.Context, stream string, blind bool) (positionRecord, string, error) {
	return lastPosition(ctx, c.conn, stream, blind)
}

func (c onConn) has(ctx context.Context, stream string, r positionRecord) (has bool, err error) {
	if r.version < 0 {
		return true, nil
	}
	err = c.conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM message_store.messages AS m
	WHERE m.stream_name = $1::text AND m.position = $2::bigint AND m.id = $3::uuid)`, stream, r.version, r.id).Scan(&has)
	return has, err
}

func (c onConn) store(ctx context.Context, s positionToStore) (storedPosition, error) {
	return storePosition(ctx, c.conn, s)
}

func (c onConn) used(ctx context.Context) (position int64, err error) {
	err = c.conn.QueryRow(ctx, "SELECT CASE WHEN s.is_called THEN s.last_value ELSE 0 END FROM message_store.messages_global_position_seq AS s").Scan(&position)
	return position, err
}
