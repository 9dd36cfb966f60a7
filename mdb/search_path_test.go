package mdb_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/url"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

// defaultPath prepares a pool that leaves the search path as the server has it.
func defaultPath(cfg *pgxpool.Config) { mdb.Configure(cfg) }

func firstPath(cfg *pgxpool.Config) { mdb.Configure(cfg, mdb.StoreFirst()) }

// sameShape is a table of a service that Message DB's own functions can write to.
const sameShape = `CREATE TABLE public.messages (LIKE message_store.messages INCLUDING ALL)`

func wantPathError(t testing.TB, err error) {
	t.Helper()
	setup := wantError[*mdb.SetupError](t, err)
	for _, part := range []string{"StoreFirst", "PinSearchPath", "ALTER ROLE"} {
		if !strings.Contains(setup.Remedy, part) {
			t.Errorf("got remedy %q, want it to mention %s", setup.Remedy, part)
		}
	}
	if n := strings.Count(err.Error(), "mdb: "); n != 1 {
		t.Errorf("got error %q, want the prefix once", err)
	}
}

// TestFirstUse checks that each method of a store fails before it has written, if the
// functions depend on a search path that does not begin with message_store, and that
// it fails again until that is corrected.
func TestFirstUse(t *testing.T) {
	t.Parallel()
	database := testdb.PathDependent(t)
	admin := barePool(t, database)
	exec(t, admin, sameShape)
	stream := mdbtest.Category("first").Stream("1")
	handler := func(context.Context, mdb.Message) error { return errors.New("called") }
	m := mdb.NewMessage("Happened", nil)
	calls := map[string]func(ctx context.Context, s *mdb.Store) error{
		"WriteMessage": func(ctx context.Context, s *mdb.Store) error {
			_, err := s.WriteMessage(ctx, stream, m)
			return err
		},
		"WriteMessages": func(ctx context.Context, s *mdb.Store) error {
			_, err := s.WriteMessages(ctx, stream, proposals(2))
			return err
		},
		"WriteEach": func(ctx context.Context, s *mdb.Store) error {
			return s.WriteEach(ctx, []mdb.Write{{Stream: stream, Message: m}, {Stream: stream + "x", Message: m}})[1].Err
		},
		"GetStreamMessages": func(ctx context.Context, s *mdb.Store) error {
			_, err := s.GetStreamMessages(ctx, stream)
			return err
		},
		"GetCategoryMessages": func(ctx context.Context, s *mdb.Store) error {
			_, err := s.GetCategoryMessages(ctx, stream.Category(), mdb.WithCondition("true"))
			return err
		},
		"GetLastStreamMessage": func(ctx context.Context, s *mdb.Store) error {
			_, err := s.GetLastStreamMessage(ctx, stream)
			return err
		},
		"StreamMessages": func(ctx context.Context, s *mdb.Store) error {
			_, err := collect(s.StreamMessages(ctx, stream))
			return err
		},
		"CategoryMessages": func(ctx context.Context, s *mdb.Store) error {
			_, err := collect(s.CategoryMessages(ctx, stream.Category()))
			return err
		},
		"GetAllMessages": func(ctx context.Context, s *mdb.Store) error {
			_, err := s.GetAllMessages(ctx)
			return err
		},
		"AllMessages": func(ctx context.Context, s *mdb.Store) error {
			_, err := collect(s.AllMessages(ctx, mdb.InCategories(stream.Category())))
			return err
		},
		"GetLastCategoryMessage": func(ctx context.Context, s *mdb.Store) error {
			_, err := s.GetLastCategoryMessage(ctx, stream.Category())
			return err
		},
		"GetMessage": func(ctx context.Context, s *mdb.Store) error {
			_, err := s.GetMessage(ctx, m.ID)
			return err
		},
		"Head": func(ctx context.Context, s *mdb.Store) error {
			_, err := s.Head(ctx)
			return err
		},
		"StreamVersion": func(ctx context.Context, s *mdb.Store) error {
			_, err := s.StreamVersion(ctx, stream)
			return err
		},
		"CategoryHead": func(ctx context.Context, s *mdb.Store) error {
			_, err := s.CategoryHead(ctx, stream.Category())
			return err
		},
		"MessageStoreVersion": func(ctx context.Context, s *mdb.Store) error {
			_, err := s.MessageStoreVersion(ctx)
			return err
		},
		"Atomically": func(ctx context.Context, s *mdb.Store) error {
			return s.Atomically(ctx, nil, func(tx *mdb.Tx) error {
				_, err := tx.WriteMessage(ctx, stream, m)
				return err
			})
		},
		"Atomically, with a category": func(ctx context.Context, s *mdb.Store) error {
			return s.Atomically(ctx, []mdb.Category{stream.Category()}, func(*mdb.Tx) error { return errors.New("called") })
		},
		"WithTx": func(ctx context.Context, s *mdb.Store) error {
			return pgx.BeginFunc(ctx, s.Pool(), func(tx pgx.Tx) error {
				_, err := s.WithTx(tx).WriteMessage(ctx, stream, m)
				if err := tx.QueryRow(ctx, `SELECT 1`).Scan(new(int)); err != nil {
					t.Errorf("the transaction after the error: got error %v, want none", err)
				}
				return err
			})
		},
		"WithTx, InSavepoint": func(ctx context.Context, s *mdb.Store) error {
			return pgx.BeginFunc(ctx, s.Pool(), func(tx pgx.Tx) error {
				_, err := s.WithTx(tx).WriteMessage(ctx, stream, m, mdb.InSavepoint())
				return err
			})
		},
		"WithTx, LockCategories": func(ctx context.Context, s *mdb.Store) error {
			return pgx.BeginFunc(ctx, s.Pool(), func(tx pgx.Tx) error { return s.WithTx(tx).LockCategories(ctx, stream.Category()) })
		},
		"SubscribeToStream": func(ctx context.Context, s *mdb.Store) error {
			return s.SubscribeToStream(ctx, stream, handler)
		},
		"SubscribeToCategory": func(ctx context.Context, s *mdb.Store) error {
			return s.SubscribeToCategory(ctx, stream.Category(), handler)
		},
		"SubscribeToAll": func(ctx context.Context, s *mdb.Store) error {
			return s.SubscribeToAll(ctx, handler)
		},
		"SubscribeToCategories": func(ctx context.Context, s *mdb.Store) error {
			return s.SubscribeToCategories(ctx, []mdb.Category{stream.Category()}, handler)
		},
		"Check": func(ctx context.Context, s *mdb.Store) error { return s.Check(ctx) },
	}
	store := reflect.TypeFor[*mdb.Store]()
	for i := range store.NumMethod() {
		m := store.Method(i)
		if m.Name == "AwaitWrite" || m.Name == "ReplicaLag" { // these send nothing without a replica
			continue
		}
		if _, ok := calls[m.Name]; !ok && m.Type.NumIn() > 1 && m.Type.In(1) == reflect.TypeFor[context.Context]() {
			t.Errorf("the method %s is missing here", m.Name)
		}
	}
	for name, call := range calls {
		for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeCacheStatement, pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol} {
			for way, opts := range map[string][]mdb.StoreOption{"": nil, "direct ": {mdb.WithDirectSQL()}} {
				t.Run(way+name+" "+mode.String(), func(t *testing.T) {
					t.Parallel()
					s := newStore(t, barePool(t, database, defaultPath, execMode(mode)), append(opts, mdb.WithConditions())...)
					for range 2 {
						wantPathError(t, call(t.Context(), s))
					}
				})
			}
		}
	}
	t.Cleanup(func() {
		conn, err := pgx.Connect(context.Background(), database)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(context.Background())
		for _, table := range []string{"public.messages", "message_store.messages"} {
			var n int
			if err := conn.QueryRow(context.Background(), `SELECT count(*) FROM `+table).Scan(&n); err != nil || n != 0 {
				t.Errorf("%s: got %d messages, error %v, want none", table, n, err)
			}
		}
	})
}

// TestForeignNames checks that a store on functions that depend on the search path works
// with StoreFirst, with Connect, and with PinSearchPath, and otherwise writes nothing,
// whatever other schemas contain.
func TestForeignNames(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, sql string }{
		{"nothing", `SELECT`},
		{"a table messages of the same shape", sameShape},
		{"a table messages of another shape", `CREATE TABLE public.messages (id int, body text)`},
		{
			"a function hash_64 of another role",
			`SET ROLE message_store; CREATE FUNCTION public.hash_64(varchar) RETURNS bigint LANGUAGE sql AS 'SELECT random()::bigint'; RESET ROLE`,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			database := testdb.PathDependent(t)
			// PostgreSQL 15 and later do not let everybody create objects in public.
			exec(t, barePool(t, database), `GRANT CREATE ON SCHEMA public TO message_store`)
			exec(t, barePool(t, database), tt.sql, pgx.QueryExecModeSimpleProtocol)
			stream := mdbtest.Category("foreign").Stream("1")
			usable := func(what string, s *mdb.Store) {
				t.Helper()
				before, err := s.StreamVersion(t.Context(), stream)
				if err != nil {
					t.Fatalf("%s: %v", what, err)
				}
				write(t, s, stream, mdb.NewMessage("Happened", nil))
				if got := positions(t, s.Pool(), stream); int64(len(got)) != before+2 {
					t.Errorf("%s: got %d messages in the store, want %d", what, len(got), before+2)
				}
				if err := s.Check(t.Context()); err != nil {
					t.Errorf("%s: Check: %v", what, err)
				}
			}

			s := newStore(t, barePool(t, database, defaultPath))
			_, err := s.WriteMessage(t.Context(), stream, mdb.NewMessage("Happened", nil))
			wantPathError(t, err)

			usable("StoreFirst", newStore(t, barePool(t, database, firstPath)))
			usable("the role message_store, whose schema is first", newStore(t, barePool(t, database, defaultPath, asRole("message_store"))))
			connected, err := mdb.Connect(t.Context(), database)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(connected.Close)
			usable("Connect", connected)

			for _, want := range []bool{true, false} {
				if n, err := schema.PinSearchPath(t.Context(), barePool(t, database)); err != nil || (n > 0) != want {
					t.Errorf("PinSearchPath: got %d functions, error %v, want any: %v", n, err, want)
				}
			}
			usable("PinSearchPath", s)
			usable("PinSearchPath, and message_store last", newStore(t, barePool(t, database, defaultPath, parameter("search_path", "public, message_store"))))
		})
	}
}

// TestFunctionsOfText checks that a store reports functions that fit the calls in Message
// DB's own functions better than Message DB's do, wherever the path finds them.
func TestFunctionsOfText(t *testing.T) {
	t.Parallel()
	database := testdb.PathDependent(t)
	exec(t, barePool(t, database), `CREATE FUNCTION public.category(text) RETURNS text LANGUAGE sql AS 'SELECT $1'`)
	s := newStore(t, barePool(t, database, firstPath))
	_, err := s.GetCategoryMessages(t.Context(), mdbtest.Category("text"))
	setup := wantError[*mdb.SetupError](t, err)
	if !strings.Contains(setup.Problem, "public.category") || !strings.Contains(setup.Remedy, "PinSearchPath") {
		t.Errorf("got error %v, want the function and the remedy", err)
	}
	if _, err := schema.PinSearchPath(t.Context(), s.Pool()); err != nil {
		t.Fatal(err)
	}
	if err := s.Check(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestFirstUseCosts checks that the first call of a store makes one more round trip than
// the next one on a new connection, and that Connect leaves none to it.
func TestFirstUseCosts(t *testing.T) {
	t.Parallel()
	if testdb.Official() {
		t.Skip("Connect configures another path there")
	}
	for _, mode := range execModes {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			var w wire
			pool := newPool(t, testdb.Shared(t), execMode(mode), oneConnection, w.attach)
			stream := mdbtest.Category("costs").Stream("1")
			trips := func(call func() error) int64 {
				t.Helper()
				before := w.trips.Load()
				if err := call(); err != nil {
					t.Fatal(err)
				}
				return w.trips.Load() - before
			}
			version := func(c calls) func() error {
				return func() error {
					_, err := c.StreamVersion(t.Context(), stream)
					return err
				}
			}
			s := newStore(t, pool)
			trips(version(s)) // prepares the statement
			next := trips(version(s))
			if first := trips(version(newStore(t, pool))); first != next+1 {
				t.Errorf("got %d round trips for the first call, want %d", first, next+1)
			}
			other := newStore(t, pool)
			for i, want := range []int64{next + 3, next} { // it looks within a savepoint
				err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
					if got := trips(version(other.WithTx(tx))); got != want {
						t.Errorf("call %d in a transaction: got %d round trips, want %d", i, got, want)
					}
					return nil
				})
				if err != nil {
					t.Fatal(err)
				}
			}
		})
	}
	t.Run("Connect", func(t *testing.T) {
		t.Parallel()
		s, err := mdb.Connect(t.Context(), testdb.Shared(t))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Close)
		if !mdb.Looked(s) {
			t.Error("the first call would look again")
		}
	})
}

// TestFirstUseConcurrent checks that the first calls of a store may be concurrent.
func TestFirstUseConcurrent(t *testing.T) {
	t.Parallel()
	s := newStore(t, newPool(t, testdb.Shared(t)))
	category := mdbtest.Category("concurrent")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := s.WriteMessage(t.Context(), category.Stream("1"), mdb.NewMessage("Happened", nil)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if !mdb.Looked(s) {
		t.Error("the store has not looked")
	}
}

// TestFirstUseLost checks that a connection that is lost during the look is not taken for a
// write whose outcome is unknown: the write is retried, and with one attempt it fails.
func TestFirstUseLost(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name     string
		answer   int
		attempts int
	}{
		{"not sent", unsent, 3},
		{"no answer", 0, 3},
		{"one attempt", 0, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var w wire
			s := newStore(t, newPool(t, testdb.Shared(t), w.attach), attempts(tt.attempts))
			stream := mdbtest.Category("lost").Stream("1")
			w.cut(cut{request: "current_schemas", answer: tt.answer})
			written, err := s.WriteMessage(t.Context(), stream, mdb.NewMessage("Happened", nil))
			if n := w.uncut(); n != 0 {
				t.Fatal("the look was not cut")
			}
			if tt.attempts > 1 {
				if err != nil || written.Position != 0 || written.Duplicate {
					t.Errorf("got %+v, error %v, want position 0", written, err)
				}
				return
			}
			if unknown := (*mdb.UnknownOutcomeError)(nil); err == nil || errors.As(err, &unknown) {
				t.Errorf("got error %v, want a definite one", err)
			}
			if got := positions(t, s.Pool(), stream); len(got) != 0 {
				t.Errorf("got %d messages, want none", len(got))
			}
		})
	}
}

// TestFirstUseBlind checks that a store works if its role may not read the catalogue, and
// looks only once.
func TestFirstUseBlind(t *testing.T) {
	t.Parallel()
	database := testdb.New(t)
	exec(t, barePool(t, database), `REVOKE SELECT ON pg_catalog.pg_proc FROM PUBLIC`)
	var w wire
	s := newStore(t, barePool(t, database, firstPath, asRole("message_store"), oneConnection, w.attach))
	stream := mdbtest.Category("blind").Stream("1")
	for i := range int64(3) {
		before := w.trips.Load()
		if got := write(t, s, stream, mdb.NewMessage("Happened", nil)); got.Position != i {
			t.Errorf("got position %d, want %d", got.Position, i)
		}
		if trips := w.trips.Load() - before; i == 2 && trips != 1 {
			t.Errorf("got %d round trips, want 1", trips)
		}
	}
}

// TestFirstUseBlindInTx checks that the first call in a transaction works if the role may not
// read the catalogue.
func TestFirstUseBlindInTx(t *testing.T) {
	t.Parallel()
	database := testdb.New(t)
	exec(t, barePool(t, database), `REVOKE SELECT ON pg_catalog.pg_proc FROM PUBLIC`)
	for _, mode := range execModes {
		for name, call := range map[string]func(s *mdb.Store, stream mdb.StreamName) error{
			"WithTx": func(s *mdb.Store, stream mdb.StreamName) error {
				return pgx.BeginFunc(t.Context(), s.Pool(), func(tx pgx.Tx) error {
					_, err := s.WithTx(tx).WriteMessage(t.Context(), stream, mdb.NewMessage("Happened", nil))
					return err
				})
			},
			"InSavepoint": func(s *mdb.Store, stream mdb.StreamName) error {
				return pgx.BeginFunc(t.Context(), s.Pool(), func(tx pgx.Tx) error {
					_, err := s.WithTx(tx).WriteMessage(t.Context(), stream, mdb.NewMessage("Happened", nil), mdb.InSavepoint())
					return err
				})
			},
			"without Conn": func(s *mdb.Store, stream mdb.StreamName) error {
				return pgx.BeginFunc(t.Context(), s.Pool(), func(tx pgx.Tx) error {
					_, err := s.WithTx(struct{ mdb.Transaction }{tx}).WriteMessage(t.Context(), stream, mdb.NewMessage("Happened", nil))
					return err
				})
			},
			"Atomically": func(s *mdb.Store, stream mdb.StreamName) error {
				return s.Atomically(t.Context(), []mdb.Category{stream.Category()}, func(tx *mdb.Tx) error {
					_, err := tx.WriteMessage(t.Context(), stream, mdb.NewMessage("Happened", nil))
					return err
				})
			},
		} {
			t.Run(name+" "+mode.String(), func(t *testing.T) {
				t.Parallel()
				s := newStore(t, barePool(t, database, firstPath, asRole("message_store"), execMode(mode)))
				stream := mdbtest.Category("blind").Stream("1")
				for range 2 {
					if err := call(s, stream); err != nil {
						t.Error(err)
					}
				}
				if got := positions(t, s.Pool(), stream); len(got) != 2 {
					t.Errorf("got %d messages, want 2", len(got))
				}
			})
		}
	}
}

// A rewriter replaces a statement by another one of at most its length.
type rewriter struct {
	net.Conn
	from, to string
}

func (c rewriter) Write(b []byte) (int, error) {
	to := c.to + strings.Repeat(" ", len(c.from)-len(c.to))
	return c.Conn.Write(bytes.ReplaceAll(b, []byte(c.from), []byte(to)))
}

// TestFirstUseWithoutAnswer checks that a store works on a proxy that answers the look
// with something else.
func TestFirstUseWithoutAnswer(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]string{
		"no row":         "SELECT WHERE false",
		"one column":     "SELECT 1",
		"another type":   "SELECT 'x', false, false, false, '', '', ''",
		"another result": "SET work_mem = 1000",
	} {
		for _, mode := range execModes {
			t.Run(name+" "+mode.String(), func(t *testing.T) {
				t.Parallel()
				s := newStore(t, newPool(t, testdb.Shared(t), execMode(mode), func(cfg *pgxpool.Config) {
					dial := cfg.ConnConfig.DialFunc
					cfg.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
						conn, err := dial(ctx, network, addr)
						return rewriter{conn, mdb.PathInspection, answer}, err
					}
				}), attempts(1))
				stream := mdbtest.Category("answer").Stream("1")
				tx := begin(t, s.Pool())
				if _, err := s.WithTx(tx).StreamVersion(t.Context(), stream); err != nil {
					t.Error(err)
				}
				if err := tx.Rollback(t.Context()); err != nil {
					t.Error(err)
				}
				s = newStore(t, s.Pool(), attempts(1))
				if got := write(t, s, stream, mdb.NewMessage("Happened", nil)); got.Position != 0 || !mdb.Looked(s) {
					t.Errorf("got position %d, looked %t", got.Position, mdb.Looked(s))
				}
			})
		}
	}
}

// TestForeignConnection checks that a transaction on a connection of another pool, whose
// search path does not lead to Message DB, writes nothing, although the store has been used.
func TestForeignConnection(t *testing.T) {
	t.Parallel()
	database := testdb.PathDependent(t)
	exec(t, barePool(t, database), sameShape)
	astray := func(cfg *pgxpool.Config) { cfg.ConnConfig.RuntimeParams["search_path"] = "public, message_store" }
	for _, mode := range execModes {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			s := newStore(t, barePool(t, database, firstPath, execMode(mode)))
			stream := mdbtest.Category("foreign").Stream("1")
			write(t, s, stream, mdb.NewMessage("Happened", nil))
			other := barePool(t, database, astray, execMode(mode), oneConnection)
			for name, with := range map[string]func(pgx.Tx) *mdb.Tx{
				"pgx.Tx":       func(tx pgx.Tx) *mdb.Tx { return s.WithTx(tx) },
				"*pgx.Conn":    func(tx pgx.Tx) *mdb.Tx { return s.WithTx(tx.Conn()) },
				"without Conn": func(tx pgx.Tx) *mdb.Tx { return s.WithTx(struct{ mdb.Transaction }{tx}) },
			} {
				for range 2 {
					tx := begin(t, other)
					_, err := with(tx).WriteMessage(t.Context(), stream, mdb.NewMessage("Happened", nil))
					wantPathError(t, err)
					if err := tx.Commit(t.Context()); err != nil {
						t.Errorf("%s: the transaction after the error: %v", name, err)
					}
				}
			}
			if got := positions(t, s.Pool(), stream); len(got) != 1 {
				t.Errorf("got %d messages, want 1", len(got))
			}
			// On a connection of the kind that works, it looks once.
			var w wire
			good := barePool(t, database, firstPath, func(cfg *pgxpool.Config) { cfg.ConnConfig.RuntimeParams["work_mem"] = "4MB" }, execMode(mode), oneConnection, w.attach)
			var trips [3]int64
			for i := range trips {
				tx := begin(t, good)
				before := w.trips.Load()
				if _, err := s.WithTx(tx).WriteMessage(t.Context(), stream, mdb.NewMessage("Happened", nil)); err != nil {
					t.Fatal(err)
				}
				trips[i] = w.trips.Load() - before
				if err := tx.Commit(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if trips[0] < trips[2]+3 || trips[1] != trips[2] {
				t.Errorf("got %v round trips, want three more for the first call only", trips)
			}
		})
	}
}

// TestFirstUseBeforeInstall checks that a store looks again if Message DB was not there at its
// first call.
func TestFirstUseBeforeInstall(t *testing.T) {
	t.Parallel()
	database := testdb.PathDependent(t)
	admin := barePool(t, database)
	s := newStore(t, barePool(t, database, defaultPath))
	stream := mdbtest.Category("late").Stream("1")
	exec(t, admin, `ALTER SCHEMA message_store RENAME TO elsewhere`)
	_, err := s.StreamVersion(t.Context(), stream)
	wantError[*mdb.SetupError](t, err)
	exec(t, admin, `ALTER SCHEMA elsewhere RENAME TO message_store`)
	_, err = s.WriteMessage(t.Context(), stream, mdb.NewMessage("Happened", nil))
	wantPathError(t, err)
}

// TestOwnTables checks that with the functions of schema.Install a service's own tables are
// created in its own schema, by a pool of Connect and of Configure.
func TestOwnTables(t *testing.T) {
	t.Parallel()
	if testdb.Official() {
		t.Skip("Message DB's own functions need message_store first")
	}
	database := testdb.New(t)
	connected, err := mdb.Connect(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(connected.Close)
	for name, s := range map[string]*mdb.Store{"connected": connected, "configured": newStore(t, newPool(t, database))} {
		exec(t, s.Pool(), `CREATE TABLE `+name+` (id int)`)
		if got := value[string](t, s.Pool(), `SELECT schemaname::text FROM pg_tables WHERE tablename = $1`, name); got != "public" {
			t.Errorf("%s: got the table in schema %s, want public", name, got)
		}
		// A table that is named like the store's is the service's own, too.
		exec(t, s.Pool(), `CREATE TABLE IF NOT EXISTS messages (LIKE message_store.messages INCLUDING ALL)`)
		stream := mdbtest.Category("own").Stream("1")
		write(t, s, stream, mdb.NewMessage("Happened", nil))
		if n := value[int](t, s.Pool(), `SELECT count(*) FROM messages`); n != 0 {
			t.Errorf("%s: got %d messages in the service's table, want none", name, n)
		}
		if err := s.Check(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// TestPathInOptions checks that a search path in the parameter options of a URL is in
// effect, and follows message_store where that must be first.
func TestPathInOptions(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ database, want string }{
		"independent": {testdb.New(t), `"my app", public`},
		"dependent":   {testdb.PathDependent(t), `message_store, "my app", public, pg_temp`},
	} {
		if testdb.Official() {
			tt.want = `message_store, "my app", public, pg_temp`
		}
		exec(t, barePool(t, tt.database), `CREATE SCHEMA "my app"`)
		u, err := url.Parse(tt.database)
		if err != nil {
			t.Fatal(err)
		}
		query := u.Query()
		query.Set("options", `-c search_path="my\ app",\ public`)
		u.RawQuery = strings.ReplaceAll(query.Encode(), "+", "%20")
		s, err := mdb.Connect(t.Context(), u.String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Close)
		if got := value[string](t, s.Pool(), `SHOW search_path`); got != tt.want {
			t.Errorf("%s: got path %s, want %s", name, got, tt.want)
		}
		exec(t, s.Pool(), `CREATE TABLE "my app".orders (id int)`)
		write(t, s, mdbtest.Category("options").Stream("1"), mdb.NewMessage("Happened", nil))
		exec(t, s.Pool(), `SELECT * FROM orders`)
	}
}

// TestConnectKeepsPath checks that Connect puts message_store before the path of the role,
// where that must be first.
func TestConnectKeepsPath(t *testing.T) {
	t.Parallel()
	database := testdb.PathDependent(t)
	exec(t, barePool(t, database), `DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = app, public', current_database()); END $$`)
	s, err := mdb.Connect(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	if got, want := value[string](t, s.Pool(), `SHOW search_path`), "message_store, app, public, pg_temp"; got != want {
		t.Errorf("got path %s, want %s", got, want)
	}
}
