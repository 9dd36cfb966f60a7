package mdb_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// TestUnsendable checks that what pgx rejects before it sends anything is reported by the
// first attempt, never as an unknown outcome, and ends a subscription.
func TestUnsendable(t *testing.T) {
	t.Parallel()
	for name, value := range map[string]string{"standard_conforming_strings": "off", "client_encoding": "LATIN1"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var log journal
			s := newStore(t, newPool(t, testdb.Shared(t), parameter(name, value), execMode(pgx.QueryExecModeSimpleProtocol)), log.option())
			category := mdbtest.Category("unsendable")
			stream := category.Stream("1")
			check := func(what string, err error) {
				t.Helper()
				var setup *mdb.SetupError
				if !errors.As(err, &setup) || !strings.Contains(setup.Remedy, name) || errors.As(err, new(*mdb.UnknownOutcomeError)) {
					t.Errorf("%s: got error %v, want a SetupError with a remedy", what, err)
				}
			}
			_, err := s.WriteMessage(t.Context(), stream, mdb.NewMessage("Happened", nil))
			check("WriteMessage", err)
			_, err = s.WriteMessages(t.Context(), stream, proposals(2))
			check("WriteMessages", err)
			_, err = newStore(t, s.Pool(), mdb.WithDirectSQL(), log.option()).WriteMessages(t.Context(), stream, proposals(2))
			check("WriteMessages, direct", err)
			check("WriteEach", s.WriteEach(t.Context(), []mdb.Write{{Stream: stream, Message: mdb.NewMessage("Happened", nil)}})[0].Err)
			ignore := func(context.Context, mdb.Message) error { return nil }
			check("SubscribeToCategory", s.SubscribeToCategory(t.Context(), category, ignore))
			check("SubscribeToCategory, group", s.SubscribeToCategory(t.Context(), category, ignore, mdb.AsConsumerGroup(0, 2)))
			if log.retries() != 0 {
				t.Errorf("got retries, want none: %s", &log)
			}
		})
	}
}

// TestUnreadableEndsSubscription checks that a subscription whose rows cannot be decoded
// ends with an error.
func TestUnreadableEndsSubscription(t *testing.T) {
	t.Parallel()
	s := mdbtest.Store(t, mdb.WithDirectSQL())
	write(t, s, "account-1", mdb.NewMessage("Happened", nil))
	exec(t, s.Pool(), "ALTER TABLE message_store.messages ALTER time TYPE timestamptz")
	ignore := func(context.Context, mdb.Message) error { return nil }
	for what, err := range map[string]error{
		"stream":   s.SubscribeToStream(t.Context(), "account-1", ignore),
		"category": s.SubscribeToCategory(t.Context(), "account", ignore),
		"group":    s.SubscribeToCategory(t.Context(), "account", ignore, mdb.AsConsumerGroup(0, 1)),
	} {
		if err == nil || !strings.Contains(err.Error(), `"time"`) || mdb.IsTransient(err) {
			t.Errorf("%s: got error %v, want one that names the column", what, err)
		}
	}
}

// TestRefusedConnection checks that a write reports without a retry that the server rejects the
// connection's start-up parameters or its role, and that a subscription ends.
func TestRefusedConnection(t *testing.T) {
	t.Parallel()
	url := testdb.New(t)
	admin := newPool(t, url)
	role := newRole(t, admin)
	exec(t, admin, "ALTER ROLE "+role+" LOGIN PASSWORD 'right'")
	exec(t, admin, "REVOKE CONNECT ON DATABASE "+pgx.Identifier{admin.Config().ConnConfig.Database}.Sanitize()+" FROM PUBLIC")
	for code, prepare := range map[string]func(*pgxpool.Config){
		"42704": parameter("nosuch", "x"),
		"22023": parameter("work_mem", "much"),
		"42501": func(cfg *pgxpool.Config) { cfg.ConnConfig.User, cfg.ConnConfig.Password = role, "right" },
	} {
		t.Run(code, func(t *testing.T) {
			var log journal
			s := newStore(t, newPool(t, url, prepare), log.option())
			_, err := s.WriteMessage(t.Context(), "account-1", mdb.NewMessage("Happened", nil))
			if wantError[*pgconn.ConnectError](t, err); wantCode(t, err, code) == nil || errors.As(err, new(*mdb.UnknownOutcomeError)) {
				t.Errorf("got error %v", err)
			}
			err = s.SubscribeToCategory(t.Context(), "account", func(context.Context, mdb.Message) error { return nil })
			wantCode(t, err, code)
			if log.retries() != 0 {
				t.Errorf("got retries, want none: %s", &log)
			}
		})
	}
}

// TestRefusedByOneHost checks that a rejection by one host of several is final only if all
// others reject the connection, too. The name of a host may have several addresses.
func TestRefusedByOneHost(t *testing.T) {
	t.Parallel()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead := uint16(closed.Addr().(*net.TCPAddr).Port)
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	hosts := func(others ...*pgconn.FallbackConfig) func(*pgxpool.Config) {
		return func(cfg *pgxpool.Config) {
			cfg.ConnConfig.RuntimeParams["nosuch"] = "x"
			for _, other := range others {
				if other.Port == 0 {
					other.Host, other.Port, other.TLSConfig = cfg.ConnConfig.Host, cfg.ConnConfig.Port, cfg.ConnConfig.TLSConfig
				}
			}
			cfg.ConnConfig.Fallbacks = others
		}
	}
	for name, tt := range map[string]struct {
		prepare func(*pgxpool.Config)
		final   bool
	}{
		"both reject":         {hosts(&pgconn.FallbackConfig{}), true},
		"another is dead":     {hosts(&pgconn.FallbackConfig{Host: "127.0.0.1", Port: dead}), false},
		"an address is dead":  {aliased, true},
		"another has no name": {hosts(&pgconn.FallbackConfig{Host: "nosuch.invalid", Port: dead}), false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var log journal
			s := newStore(t, newPool(t, testdb.Shared(t), tt.prepare), forAWhile(), log.option())
			_, err := s.WriteMessage(t.Context(), "account-1", mdb.NewMessage("Happened", nil))
			wantCode(t, err, "42704")
			if final := log.retries() == 0 && !errors.Is(err, mdb.ErrUnavailable); final != tt.final {
				t.Errorf("got %d retries, error %v, want final %t", log.retries(), err, tt.final)
			}
		})
	}
}

// aliased prepares a pool whose server has a name with two addresses, of which the first does
// not answer, and which rejects the connection.
func aliased(cfg *pgxpool.Config) {
	c := cfg.ConnConfig
	network, server := pgconn.NetworkAddress(c.Host, c.Port)
	c.Host, c.Fallbacks = "aliased.invalid", nil
	c.LookupFunc = func(context.Context, string) ([]string, error) { return []string{"192.0.2.1", "192.0.2.2"}, nil }
	c.DialFunc = func(ctx context.Context, _, address string) (net.Conn, error) {
		if strings.HasPrefix(address, "192.0.2.1:") {
			return nil, syscall.ECONNREFUSED
		}
		return new(net.Dialer).DialContext(ctx, network, server)
	}
	c.RuntimeParams["nosuch"] = "x"
}

// TestHookThatFails checks that a write is retried after a hook of the pool has failed for
// a reason that passes.
func TestHookThatFails(t *testing.T) {
	t.Parallel()
	failures := 1
	s := newStore(t, newPool(t, testdb.Shared(t), oneConnection, func(cfg *pgxpool.Config) {
		cfg.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
			if failures--; failures < 0 {
				return nil
			}
			_, err := conn.Exec(ctx, "DO $$ BEGIN RAISE 'lock timeout' USING ERRCODE = '55P03'; END $$")
			return err
		}
	}), attempts(3))
	write(t, s, mdbtest.Category("hook").Stream("1"), mdb.NewMessage("Happened", nil))
}

// TestMistakesInConditions checks that a mistake in a condition is reported as one, in the
// server's words, and that an error of Message DB's own functions is not.
func TestMistakesInConditions(t *testing.T) {
	t.Parallel()
	s := mdbtest.Store(t, mdb.WithConditions())
	stream := mdbtest.Category("condition").Stream("1")
	write(t, s, stream, mdb.NewMessage("Happened", map[string]string{"text": canary}))
	for condition, want := range map[mdb.SQL]string{
		"data->>'x' = 5":           "operator does not exist",
		"nofunc(data)":             "nofunc",
		"nosuch = 1":               `column "nosuch" does not exist`,
		"position IN (SELECT 1":    "syntax error",
		"position = 1 AND":         "syntax error",
		"position IN (TABLE none)": `relation "none" does not exist`,
		"type = 'ä' AND nöthing":   "nöthing",
		"position::nosuch = 1":     `type "nosuch" does not exist`,
		"position":                 "boolean",
	} {
		for what, read := range map[string]func() error{
			"stream": func() error {
				_, err := s.GetStreamMessages(t.Context(), stream, mdb.WithCondition(condition))
				return err
			},
			"category": func() error {
				_, err := s.GetCategoryMessages(t.Context(), stream.Category(), mdb.WithCondition(condition))
				return err
			},
		} {
			err := read()
			if err == nil || errors.As(err, new(*mdb.SetupError)) || !strings.Contains(err.Error(), "condition is not valid") || !strings.Contains(err.Error(), want) {
				t.Errorf("%s %s: got error %v, want one that says that the condition is not valid: %s", what, condition, err, want)
			}
			wantError[*pgconn.PgError](t, err)
		}
	}

	// A function in a condition that builds a query from a message.
	exec(t, s.Pool(), `CREATE FUNCTION public.build(name text) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN EXECUTE ''TABLE '' || name; RETURN true; END'`)
	_, err := s.GetStreamMessages(t.Context(), stream, mdb.WithCondition("public.build(data->>'text')"))
	wantCode(t, err, "42P01")
	checkNoCanary(t, err)

	// The function itself is at fault.
	exec(t, s.Pool(), `ALTER TABLE message_store.messages RENAME COLUMN metadata TO renamed`)
	_, err = s.GetStreamMessages(t.Context(), stream, mdb.WithCondition("true"))
	if err == nil || strings.Contains(err.Error(), "condition is not valid") {
		t.Errorf("got error %v, want one that does not blame the condition", err)
	}
}

// TestRowSecurity checks that the remedy for a row that row-level security rejects is not a
// GRANT.
func TestRowSecurity(t *testing.T) {
	t.Parallel()
	url := testdb.New(t)
	admin := newPool(t, url)
	exec(t, admin, "ALTER TABLE message_store.messages ENABLE ROW LEVEL SECURITY")
	s := newStore(t, newPool(t, url, asRole("message_store")))
	_, err := s.WriteMessage(t.Context(), "account-1", mdb.NewMessage("Happened", nil))
	setup := wantError[*mdb.SetupError](t, err)
	if strings.Contains(setup.Remedy, "GRANT") || !strings.Contains(setup.Remedy, "ROW LEVEL SECURITY") {
		t.Errorf("got error %v, want a remedy for row-level security", err)
	}
}

// TestConstraintsOfOtherTables checks that a violation of a constraint in a table of
// somebody else's, which has the name of one of Message DB's, is the server's error.
func TestConstraintsOfOtherTables(t *testing.T) {
	t.Parallel()
	s := mdbtest.Store(t, attempts(3))
	exec(t, s.Pool(), `
		CREATE TABLE public.messages (type text);
		CREATE FUNCTION public.project() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.messages VALUES (NEW.type); RETURN NEW; END';
		CREATE TRIGGER project AFTER INSERT ON message_store.messages FOR EACH ROW EXECUTE FUNCTION public.project()`)
	write(t, s, "account-1", mdb.NewMessage("Happened", nil))
	for _, constraint := range []string{"messages_id", "messages_stream", "messages_pkey"} {
		exec(t, s.Pool(), `CREATE UNIQUE INDEX `+constraint+` ON public.messages (type)`)
		_, err := s.WriteMessage(t.Context(), "account-1", mdb.NewMessage("Happened", nil), mdb.ExpectVersion(0))
		wantCode(t, err, "23505")
		if errors.As(err, new(*mdb.DuplicateIDError)) || errors.As(err, new(*mdb.WrongVersionError)) || errors.As(err, new(*mdb.SetupError)) {
			t.Errorf("%s: got error %v (%T), want the server's", constraint, err, err)
		}
		exec(t, s.Pool(), `DROP INDEX public.`+constraint)
	}
}

// TestSequenceBehind checks that a write which meets taken global positions in all its
// attempts says how to set the sequence.
func TestSequenceBehind(t *testing.T) {
	t.Parallel()
	s := mdbtest.Store(t, attempts(3))
	exec(t, s.Pool(), `INSERT INTO message_store.messages (id, global_position, stream_name, position, type)
		SELECT gen_random_uuid(), g, 'account-' || g, 0, 'Happened' FROM generate_series(1, 50) g`)
	_, err := s.WriteMessage(t.Context(), "account-99", mdb.NewMessage("Happened", nil))
	setup := wantError[*mdb.SetupError](t, err)
	_, statement, ok := strings.Cut(setup.Remedy, "SELECT setval")
	if !ok || wantCode(t, err, "23505") == nil {
		t.Fatalf("got error %v, want a remedy", err)
	}
	exec(t, s.Pool(), "SELECT setval"+statement)
	if w := write(t, s, "account-99", mdb.NewMessage("Happened", nil)); w.GlobalPosition != 51 {
		t.Errorf("got global position %d, want 51", w.GlobalPosition)
	}
}

// TestIdleTransactionEnds checks that a commit has no unknown outcome if the server had
// ended the transaction before, because it was idle.
func TestIdleTransactionEnds(t *testing.T) {
	t.Parallel()
	url := testdb.Shared(t)
	s := newStore(t, newPool(t, url, parameter("idle_in_transaction_session_timeout", "200")))
	observer := newPool(t, url)
	category := mdbtest.Category("idle")
	err := s.Atomically(t.Context(), []mdb.Category{category}, func(tx *mdb.Tx) error {
		if _, err := tx.WriteMessage(t.Context(), category.Stream("1"), mdb.NewMessage("Happened", nil)); err != nil {
			return err
		}
		until(t, observer, `SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)`, int(tx.Tx().Conn().PgConn().PID()))
		return nil
	})
	if err == nil || errors.As(err, new(*mdb.UnknownOutcomeError)) { // 25P03, or a broken pipe
		t.Errorf("got error %v, want a definite one", err)
	}
	if n := len(positions(t, observer, category.Stream("1"))); n != 0 {
		t.Errorf("got %d messages, want none", n)
	}
}

// A translatedConn translates the severity FATAL, as servers do in some languages. pgx then
// does not recognize it.
type translatedConn struct{ net.Conn }

func (c translatedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	copy(b, bytes.ReplaceAll(b[:n], []byte("SFATAL\x00VFATAL\x00"), []byte("SFATUM\x00VFATAL\x00")))
	return n, err
}

// TestTranslatedSeverity checks that a write on a connection which the server has ended in
// another language is retried on a new one.
func TestTranslatedSeverity(t *testing.T) {
	t.Parallel()
	url := testdb.Shared(t)
	s := newStore(t, newPool(t, url, oneConnection, func(cfg *pgxpool.Config) {
		cfg.ConnConfig.AfterNetConnect = func(_ context.Context, _ *pgconn.Config, conn net.Conn) (net.Conn, error) {
			return translatedConn{conn}, nil
		}
	}), attempts(3))
	admin := newPool(t, url)
	stream := mdbtest.Category("translated").Stream("1")
	for i := range int64(3) {
		if w := write(t, s, stream, mdb.NewMessage("Happened", nil)); w.Position != i {
			t.Errorf("got position %d, want %d", w.Position, i)
		}
		pid := value[int](t, s.Pool(), "SELECT pg_backend_pid()")
		exec(t, admin, "SELECT pg_terminate_backend($1)", pid)
		for value[int](t, admin, "SELECT count(*) FROM pg_stat_activity WHERE pid = $1", pid) > 0 {
			continue
		}
	}
}
