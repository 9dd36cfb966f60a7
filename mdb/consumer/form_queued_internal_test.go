package consumer

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/messagedb-go/messagedb/mdb"
)

// TestCheckQueued checks which texts can be queued.
func TestCheckQueued(t *testing.T) {
	t.Parallel()
	for _, sql := range []string{
		`UPDATE t SET a = 1`,
		`  update t set a = 1 ; `,
		`SELECT 'COMMIT; BEGIN'`,
		`SELECT 'it''s; COMMIT'`,
		`SELECT E'\'; COMMIT; --'`,
		`SELECT "; COMMIT"`,
		`SELECT $$; COMMIT; $$`,
		`SELECT $a$; $$ COMMIT; $b$ $a$`,
		`DO $do$ BEGIN PERFORM 1; END $do$`,
		`SELECT $1, $2; -- COMMIT; BEGIN`,
		`SELECT 1 /* ; COMMIT /* ; BEGIN */ ; */`,
		`SELECT a$b$c, 1 FROM t`,
		`-- COMMIT
		 SELECT 1`,
		`/* BEGIN */ INSERT INTO t VALUES (1)`,
		`WITH x AS (SELECT 1) SELECT * FROM x`,
		`SET LOCAL work_mem = '1MB'`,
		`set /* */ constraints all deferred`,
		`PREPARE p AS SELECT 1`,
		`statement_name`,
		`commits`,
		`"commit"`,
		`CALL p()`,
		`SELECT e 'x', x'ab', N'c;d'`,
		`SELECT 1::commit`,
	} {
		if err := checkQueued(sql); err != nil {
			t.Errorf("%q is rejected: %v", sql, err)
		}
	}
	for _, sql := range append(transactionCommands,
		``, ` ; `, `-- nothing`, `/* nothing */`,
		`SELECT 1; SELECT 2`,
		`SELECT 'a`, `SELECT "a`, `SELECT $$a`, `SELECT $a$ $$`, `SELECT 1 /* a`, `SELECT /* /* */ 1`, `SELECT E'\'`,
	) {
		if err := checkQueued(sql); err == nil {
			t.Errorf("%q is not rejected", sql)
		}
	}
}

var transactionCommands = []string{
	`BEGIN`, `begin isolation level serializable`, `Start Transaction`, `COMMIT`, `CoMmIt;`, `END`, `end work`,
	`ROLLBACK`, `ROLLBACK TO SAVEPOINT a`, `ABORT`, `SAVEPOINT a`, `RELEASE SAVEPOINT a`, `RELEASE a`,
	`PREPARE TRANSACTION 'a'`, `prepare /* a */ transaction 'a'`, `COMMIT PREPARED 'a'`,
	`SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY`, `SET TRANSACTION READ ONLY`, `SET search_path = x`, `SET SESSION ROLE x`,
	"\n\t commit", `-- comment
	COMMIT`, `/* /* nested */ */ COMMIT`, `;COMMIT`, `SELECT 1; COMMIT`, `SELECT 1;
	/* a */ CoMMIT`, `SELECT ';'; COMMIT; SELECT 1`, `COMMIT AND CHAIN`,
}

// A rewriter replaces a statement, as pgx.NamedArgs does.
type rewriter string

func (r rewriter) RewriteQuery(context.Context, *pgx.Conn, string, []any) (string, []any, error) {
	return string(r), nil, nil
}

// TestQueuedCommandsRejected checks that a handler that queues a command of a transaction fails
// for good before anything is sent, and that the messages before it are handled.
func TestQueuedCommandsRejected(t *testing.T) {
	t.Parallel()
	var w tap
	store := newStand(t, 0, database(t), oneConnection, w.attach).store
	commands := transactionCommands // each of which checkQueued rejects
	if testing.Short() {
		commands = commands[:3]
	}
	for _, sql := range commands {
		for way, queue := range map[string]func(*pgx.Batch){
			"queued":    func(b *pgx.Batch) { b.Queue(sql) },
			"rewritten": func(b *pgx.Batch) { b.Queue(`SELECT 1`, rewriter(sql)) },
			"appended": func(b *pgx.Batch) {
				b.QueuedQueries = append(b.QueuedQueries, &pgx.QueuedQuery{SQL: sql})
			},
		} {
			h := EachQueued(func(b *pgx.Batch, m mdb.Message) error {
				b.Queue(insertLog, m.ID.String())
				if m.Position == 1 {
					queue(b)
					b.Queue(insertLog, m.ID.String())
				}
				return nil
			})
			s := standOn(t, store, 3)
			w.reset(-1, -1)
			c := s.calling(s.messages[1:2])
			_, err := h.form(s.config).call(t.Context(), c)
			var v *verdict
			if !errors.As(err, &v) || v.what != toPark {
				t.Fatalf("%q, %s: got error %v, want a permanent one", sql, way, err)
			}
			if _, sent, _ := w.counts(); sent > 10 { // what reads the checkpoint
				t.Errorf("%q, %s: %d messages were sent", sql, way, sent)
			}
			var batchErr *BatchError
			done, err := s.handle(h)
			if done != 1 || !errors.As(err, &batchErr) || batchErr.Index != 1 {
				t.Errorf("%q, %s: got %d, %v, want that the second message fails", sql, way, done, err)
			}
			s.check(1)
		}
	}
	// pgx offers to begin a transaction in a batch.
	s := standOn(t, store, 1)
	done, err := s.handle(EachQueued(func(b *pgx.Batch, m mdb.Message) error {
		b.BeginTx(pgx.TxOptions{})
		return nil
	}))
	var v *verdict
	if done != 0 || !errors.As(err, &v) || v.what != toPark {
		t.Errorf("got %d, %v, want a permanent error", done, err)
	}
}

// TestQueuedStatementFails checks that a statement that fails is the failure of its message, in
// whichever way it fails, and in all modes of pgx.
func TestQueuedStatementFails(t *testing.T) {
	t.Parallel()
	url := ownDatabase(t)
	admin := newPool(t, url)
	exec(t, admin, `CREATE PROCEDURE public.commits() LANGUAGE plpgsql AS 'BEGIN COMMIT; END';
		CREATE PROCEDURE public.rolls_back() LANGUAGE plpgsql AS 'BEGIN ROLLBACK; END'`)
	for _, mode := range execModes {
		t.Run(mode.String(), func(t *testing.T) {
			store := newStand(t, 0, url, execMode(mode)).store
			for way, queue := range map[string]func(*pgx.Batch){
				"divides by zero":      func(b *pgx.Batch) { b.Queue(`SELECT 1/$1::integer`, 0) },
				"has no table":         func(b *pgx.Batch) { b.Queue(`INSERT INTO nowhere VALUES ($1::integer)`, 1) },
				"is no SQL":            func(b *pgx.Batch) { b.Queue(`SELEKT 1`) },
				"has a wrong argument": func(b *pgx.Batch) { b.Queue(`SELECT $1::integer`, struct{}{}) },
				"commits":              func(b *pgx.Batch) { b.Queue(`CALL public.commits()`) },
				"rolls back":           func(b *pgx.Batch) { b.Queue(`CALL public.rolls_back()`) },
				"commits in a block":   func(b *pgx.Batch) { b.Queue(`DO 'BEGIN COMMIT; END'`) },
				"with a callback": func(b *pgx.Batch) {
					b.Queue(`SELECT 1/$1::integer`, 0).QueryRow(func(pgx.Row) error { t.Error("the callback was called"); return nil })
				},
				"cannot be rewritten": func(b *pgx.Batch) { b.Queue(`SELECT @a`, failingRewriter{}) },
			} {
				s := standOn(t, store, 5)
				done, err := s.handle(EachQueued(func(b *pgx.Batch, m mdb.Message) error {
					b.Queue(insertLog, m.ID.String())
					if m.Position == 3 {
						queue(b)
					}
					return nil
				}))
				var batchErr *BatchError
				named := errors.As(err, &batchErr)
				switch {
				case err == nil || isTransient(err):
					t.Errorf("%s: got %d, %v", way, done, err)
				case !named && done == 0 && (way == "has a wrong argument" || way == "is no SQL" && mode == pgx.QueryExecModeSimpleProtocol):
					// Nobody says which statement it is. The engine divides the batch.
				case !named || done != 3 || batchErr.Index != 3:
					t.Errorf("%s: got %d, %v, want that the message fails", way, done, err)
				}
				s.check(done)
				s.messages = s.messages[done:]
				s.row.Position += int64(done)
			}
			checkReleased(t, store.Pool())
		})
	}
}

type failingRewriter struct{}

func (failingRewriter) RewriteQuery(context.Context, *pgx.Conn, string, []any) (string, []any, error) {
	return "", nil, errors.New("cannot rewrite")
}

// TestQueuedCallbacks checks that callbacks receive the results that pgx gives them, in all of
// its modes, after the commit.
func TestQueuedCallbacks(t *testing.T) {
	t.Parallel()
	type row struct {
		N    int
		Name *string
	}
	const sql = `SELECT n, CASE WHEN n > 1 THEN 'name ' || n END AS name FROM generate_series(1, $1::integer) AS n`
	// queue queues statements and returns what their callbacks receive.
	queue := func(b *pgx.Batch) func() string {
		var got []any
		add := func(v any, err error) error { got = append(got, v, err); return nil }
		b.Queue(`DELETE FROM public.once WHERE message IS NULL`).Exec(func(tag pgconn.CommandTag) error { return add(tag.String(), nil) })
		b.Queue(sql, 3).Query(func(rows pgx.Rows) error { return add(pgx.CollectRows(rows, pgx.RowToStructByName[row])) })
		b.Queue(sql, 0).Query(func(rows pgx.Rows) error { return add(pgx.CollectRows(rows, pgx.RowToMap)) })
		// More than pgx keeps in memory.
		b.Queue(`SELECT repeat(n::text, 100) FROM generate_series(1, $1::integer) AS n`, 1000).Query(func(rows pgx.Rows) error {
			return add(pgx.CollectRows(rows, pgx.RowTo[string]))
		})
		b.Queue(sql, 2).Query(func(rows pgx.Rows) error {
			for rows.Next() {
				_ = add(rows.Values())
			}
			_, err := rows.Values()
			return add(rows.CommandTag().String(), errors.Join(err, rows.Err()))
		})
		b.Queue(sql, 2).QueryRow(func(r pgx.Row) error {
			var v row
			err := r.Scan(&v.N, &v.Name)
			return add(v, err)
		})
		b.Queue(sql, 0).QueryRow(func(r pgx.Row) error { return add(nil, r.Scan(nil, nil)) })
		b.Queue(sql, 1).QueryRow(func(r pgx.Row) error { return add(nil, r.Scan(nil)) }) // pgx executes nothing after that
		return func() string {
			text := make([]string, len(got))
			for i, v := range got {
				if r := reflect.ValueOf(v); r.IsValid() && r.Kind() == reflect.Slice && r.Type().Elem() == reflect.TypeFor[row]() {
					for _, r := range v.([]row) {
						name := "NULL"
						if r.Name != nil {
							name = *r.Name
						}
						text[i] += fmt.Sprint(r.N, name, " ")
					}
					continue
				}
				text[i] = fmt.Sprintf("%v", v)
			}
			return strings.Join(text, "\n")
		}
	}
	url := database(t)
	observer := newPool(t, url)
	for _, mode := range execModes {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			s := newStand(t, 2, url, execMode(mode))
			var b pgx.Batch
			want := queue(&b)
			if err := s.store.Pool().SendBatch(t.Context(), &b).Close(); err != nil {
				t.Fatal(err)
			}
			var got func() string
			errCallback, failed := errors.New("a callback"), 0
			s.config.callbackFailed = func(m mdb.Message, err error) {
				if m.Position != 1 || !errors.Is(err, errCallback) && !errors.As(err, new(*mdb.PanicError)) {
					t.Errorf("got message %d, error %v", m.Position, err)
				}
				failed++
			}
			done, err := s.handle(EachQueued(func(b *pgx.Batch, m mdb.Message) error {
				b.Queue(insertLog, m.ID.String()).Exec(func(tag pgconn.CommandTag) error {
					if n := value[int](t, observer, `SELECT count(*) FROM public.log WHERE message = $1`, m.ID.String()); n != 1 || tag.RowsAffected() != 1 {
						t.Errorf("the callback is called before the commit, or with the wrong tag %v", tag)
					}
					return nil
				})
				if m.Position == 0 {
					got = queue(b)
				} else {
					b.Queue(`SELECT 1`).Exec(func(pgconn.CommandTag) error { return errCallback })
					b.Queue(`SELECT 1`).Exec(func(pgconn.CommandTag) error { panic("a callback") })
				}
				return nil
			}))
			if done != 2 || err != nil || failed != 2 {
				t.Fatalf("got %d, %v, and %d errors of callbacks", done, err, failed)
			}
			s.check(2)
			if got() != want() {
				t.Errorf("the callbacks received\n%.2000s\nand with pgx\n%.2000s", got(), want())
			}
		})
	}
}
