package main

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/mdb"
)

// A client is a way to use Message DB.
type client interface {
	write(ctx context.Context, stream string) error
	batch(ctx context.Context, stream string, n int) error
	// category reads a page and returns how many messages it has.
	category(ctx context.Context, category string, position int64, size int) (int, error)
}

// payload is the data of each message written, as JSON.
const payload = `{"amount": 10, "currency": "EUR", "note": "some words, so that the row is of an ordinary size"}`

const (
	writeSQL = `SELECT message_store.write_message($1::varchar, $2::varchar, $3::varchar, $4::jsonb, $5::jsonb, $6::bigint)`

	categorySQL = `SELECT id, stream_name, type, position, global_position, data, metadata, time
FROM message_store.get_category_messages($1::varchar, $2::bigint, $3::bigint)`

	batchSQL = `SELECT message_store.write_message(m.id, $1::varchar, m.type, m.data::jsonb)
FROM unnest($2::varchar[], $3::varchar[], $4::text[]) AS m(id, type, data)`
)

// A row as a program that knows no mdb would have it.
type message struct {
	ID, Stream, Type         string
	Position, GlobalPosition int64
	Data, Metadata           *string
	Time                     time.Time
}

// mdbClient is this project's.
type mdbClient struct{ store *mdb.Store }

func (c mdbClient) write(ctx context.Context, stream string) error {
	_, err := c.store.WriteMessage(ctx, mdb.StreamName(stream), mdb.NewMessage("Deposited", []byte(payload)))
	return err
}

func (c mdbClient) batch(ctx context.Context, stream string, n int) error {
	messages := make([]mdb.ProposedMessage, n)
	for i := range messages {
		messages[i] = mdb.NewMessage("Deposited", []byte(payload))
	}
	_, err := c.store.WriteMessages(ctx, mdb.StreamName(stream), messages)
	return err
}

func (c mdbClient) category(ctx context.Context, category string, position int64, size int) (int, error) {
	messages, err := c.store.GetCategoryMessages(ctx, mdb.Category(category), mdb.FromGlobalPosition(position), mdb.WithBatchSize(size))
	return len(messages), err
}

// pgxClient is what one writes with pgx alone.
type pgxClient struct{ pool *pgxpool.Pool }

func (c pgxClient) write(ctx context.Context, stream string) error {
	var position int64
	return c.pool.QueryRow(ctx, writeSQL, uuid.NewString(), stream, "Deposited", payload, nil, nil).Scan(&position)
}

func (c pgxClient) batch(ctx context.Context, stream string, n int) error {
	return pgx.BeginFunc(ctx, c.pool, func(tx pgx.Tx) error {
		batch := new(pgx.Batch)
		for range n {
			batch.Queue(writeSQL, uuid.NewString(), stream, "Deposited", payload, nil, nil)
		}
		return tx.SendBatch(ctx, batch).Close()
	})
}

func (c pgxClient) category(ctx context.Context, category string, position int64, size int) (int, error) {
	rows, err := c.pool.Query(ctx, categorySQL, category, position, size)
	if err != nil {
		return 0, err
	}
	messages, err := pgx.CollectRows(rows, pgx.RowToStructByPos[message])
	return len(messages), err
}

// sqlClient is what one writes with database/sql, on whichever driver.
type sqlClient struct {
	db *sql.DB
	// prepared holds the statements if they are prepared once, and is nil if each
	// call prepares its own, as simple wrappers do.
	prepared map[string]*sql.Stmt
}

func newSQLClient(ctx context.Context, db *sql.DB, once bool) (*sqlClient, error) {
	c := &sqlClient{db: db}
	if once {
		c.prepared = make(map[string]*sql.Stmt)
		for _, text := range []string{writeSQL, categorySQL} {
			st, err := db.PrepareContext(ctx, text)
			if err != nil {
				return nil, err
			}
			c.prepared[text] = st
		}
	}
	return c, nil
}

func (c *sqlClient) statement(ctx context.Context, text string) (st *sql.Stmt, done func(), err error) {
	if c.prepared != nil {
		return c.prepared[text], func() {}, nil
	}
	st, err = c.db.PrepareContext(ctx, text)
	if err != nil {
		return nil, nil, err
	}
	return st, func() { _ = st.Close() }, nil
}

func (c *sqlClient) write(ctx context.Context, stream string) error {
	st, done, err := c.statement(ctx, writeSQL)
	if err != nil {
		return err
	}
	defer done()
	var position int64
	return st.QueryRowContext(ctx, uuid.NewString(), stream, "Deposited", payload, nil, nil).Scan(&position)
}

func (c *sqlClient) batch(ctx context.Context, stream string, n int) (err error) {
	tx, err := c.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	for range n {
		st, done, err := c.statement(ctx, writeSQL)
		if err != nil {
			return err
		}
		var position int64
		err = tx.StmtContext(ctx, st).QueryRowContext(ctx, uuid.NewString(), stream, "Deposited", payload, nil, nil).Scan(&position)
		done()
		if err != nil {
			return err
		}
	}
	return tx.Commit()
}

func (c *sqlClient) category(ctx context.Context, category string, position int64, size int) (int, error) {
	st, done, err := c.statement(ctx, categorySQL)
	if err != nil {
		return 0, err
	}
	defer done()
	rows, err := st.QueryContext(ctx, category, position, size)
	if err != nil {
		return 0, err
	}
	defer func() { _ = rows.Close() }()
	var messages []message
	for rows.Next() {
		var m message
		if err := rows.Scan(&m.ID, &m.Stream, &m.Type, &m.Position, &m.GlobalPosition, &m.Data, &m.Metadata, &m.Time); err != nil {
			return 0, err
		}
		messages = append(messages, m)
	}
	return len(messages), rows.Err()
}

// floorClient sends the same statements on one connection and does not look at
// what comes back: nothing on this driver can be faster.
type floorClient struct {
	conn       *pgconn.PgConn
	statements map[string]*pgconn.StatementDescription
}

func newFloorClient(ctx context.Context, url string) (*floorClient, error) {
	conn, err := pgconn.Connect(ctx, url)
	if err != nil {
		return nil, err
	}
	c := &floorClient{conn: conn, statements: make(map[string]*pgconn.StatementDescription)}
	for i, text := range []string{writeSQL, categorySQL, batchSQL} {
		st, err := conn.Prepare(ctx, fmt.Sprintf("floor_%d", i), text, nil)
		if err != nil {
			return nil, err
		}
		c.statements[text] = st
	}
	return c, nil
}

var binary = []int16{1}

func (c *floorClient) exec(ctx context.Context, text string, args ...[]byte) (int, error) {
	reader := c.conn.ExecStatement(ctx, c.statements[text], args, nil, binary)
	n := 0
	for reader.NextRow() {
		n++
	}
	_, err := reader.Close()
	return n, err
}

func (c *floorClient) write(ctx context.Context, stream string) error {
	_, err := c.exec(ctx, writeSQL, []byte(uuid.NewString()), []byte(stream), []byte("Deposited"), []byte(payload), nil, nil)
	return err
}

func (c *floorClient) batch(ctx context.Context, stream string, n int) error {
	var ids, types, data strings.Builder
	quoted := `"` + strings.ReplaceAll(payload, `"`, `\"`) + `"`
	for i := range n {
		for _, b := range []*strings.Builder{&ids, &types, &data} {
			b.WriteByte("{,"[min(i, 1)])
		}
		ids.WriteString(uuid.NewString())
		types.WriteString("Deposited")
		data.WriteString(quoted)
	}
	_, err := c.exec(ctx, batchSQL, []byte(stream), []byte(ids.String()+"}"), []byte(types.String()+"}"), []byte(data.String()+"}"))
	return err
}

func (c *floorClient) category(ctx context.Context, category string, position int64, size int) (int, error) {
	return c.exec(ctx, categorySQL, []byte(category), fmt.Append(nil, position), fmt.Append(nil, size))
}
