package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/messagedb-go/messagedb/mdb"
)

// hostile contains texts with a meaning in SQL, in format strings or in the protocol.
var hostile = []string{
	`'`, `''`, `"`, `\`, `\'`, `--`, `; --`, `/*`, `*/`, `$1`, `$$`, `$tag$`, `%s`, `%I`, `%`, `{}`, `:name`, `?`,
	`'; DROP TABLE message_store.messages; --`, `' OR '1'='1`, `x' UNION SELECT 1 --`, `E'\x27'`, `U&'\0027'`,
	"'||pg_sleep(10)||'", "\u2019", "\u02bc", "\uff07", "\u00bf'", "\r\n", "\t", "\u202e", "\U0010ffff", "\ufeff",
	`\x00`, `\u0000`, `NULL`, `default`, strings.Repeat(`'`, 100), strings.Repeat(`\`, 101),
}

// TestInjection checks that hostile texts in any argument are stored and found
// unchanged and have no other effect, in all of pgx's query modes, with the procedures
// and with direct SQL.
func TestInjection(t *testing.T) {
	url := database(t)
	admin := connect(t, url)
	objects := func() (n int, text string) {
		err := admin.QueryRow(t.Context(), `SELECT count(*), string_agg(c.relname::text || c.relkind::text, ' ' ORDER BY c.oid)
FROM pg_class AS c WHERE c.relnamespace = 'message_store'::regnamespace`).Scan(&n, &text)
		if err != nil {
			t.Fatal(err)
		}
		return n, text
	}
	_, before := objects()
	written := 0
	for name, mode := range map[string]pgx.QueryExecMode{
		"cache statement": pgx.QueryExecModeCacheStatement, "cache describe": pgx.QueryExecModeCacheDescribe,
		"describe exec": pgx.QueryExecModeDescribeExec, "exec": pgx.QueryExecModeExec, "simple": pgx.QueryExecModeSimpleProtocol,
	} {
		pool := openPool(t, url, 2, configure, func(cfg *pgxpool.Config) { cfg.ConnConfig.DefaultQueryExecMode = mode })
		for way, opts := range map[string][]mdb.StoreOption{"procedures": nil, "direct": {mdb.WithDirectSQL()}} {
			s, err := mdb.New(pool, opts...)
			if err != nil {
				t.Fatal(err)
			}
			t.Run(name+"/"+way, func(t *testing.T) {
				for i, text := range hostile {
					written += inject(t, s, fmt.Sprintf("%s%s%d", strings.ReplaceAll(name, " ", ""), way, i), text)
				}
			})
		}
		pool.Close()
	}
	if _, after := objects(); after != before {
		t.Errorf("objects of the schema: %s, before: %s", after, before)
	}
	var n int
	if err := admin.QueryRow(t.Context(), `SELECT count(*) FROM message_store.messages`).Scan(&n); err != nil || n != written {
		t.Errorf("%d messages, %v, want %d", n, err, written)
	}
}

func inject(t *testing.T, s *mdb.Store, unique, text string) (written int) {
	t.Helper()
	ctx := t.Context()
	plain := strings.ReplaceAll(text, "-", "_") // a category has no dash
	category := mdb.Category(unique + plain)
	stream := category.Stream(unique + text)
	value, err := json.Marshal(map[string]string{"text": text, text: "key"})
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(value), `\u0000`) && !strings.Contains(string(value), `\\u0000`) {
		t.Fatal("a zero byte is not valid in Message DB's JSON")
	}
	m := mdb.ProposedMessage{
		ID: uuid.New(), Type: "T" + text, Data: json.RawMessage(value),
		Metadata: map[string]string{"correlationStreamName": string(category) + "-1", "text": text},
	}
	one, err := s.WriteMessage(ctx, stream, m, mdb.ExpectNoStream())
	if err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	second := m
	second.ID = uuid.New()
	third := m
	third.ID = uuid.New()
	if _, err := s.WriteMessages(ctx, stream, []mdb.ProposedMessage{second, third}, mdb.ExpectVersion(0)); err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	_, err = s.WriteMessage(ctx, stream, m, mdb.ExpectVersion(7))
	if wrong := (*mdb.WrongVersionError)(nil); !errors.As(err, &wrong) || wrong.Actual != 2 || wrong.Stream != stream {
		t.Errorf("%q: error %v, want a wrong version", text, err)
	}
	if again, err := s.WriteMessage(ctx, stream, m, mdb.Idempotent()); err != nil || again.Position != one.Position || !again.Duplicate {
		t.Errorf("%q: again %+v, %v", text, again, err)
	}
	check := func(what string, n int, messages []mdb.Message, err error) {
		t.Helper()
		if err != nil || len(messages) != n {
			t.Fatalf("%q: %s: %d messages, %v, want %d", text, what, len(messages), err, n)
		}
		for _, got := range messages {
			var data, metadata map[string]string
			if err := errors.Join(got.Decode(&data), got.DecodeMetadata(&metadata)); err != nil {
				t.Fatal(err)
			}
			if got.Stream != stream || got.Type != m.Type || data["text"] != text && text != "text" || data[text] != "key" || metadata["text"] != text {
				t.Errorf("%q: %s: %+v", text, what, got)
			}
		}
	}
	messages, err := s.GetStreamMessages(ctx, stream)
	check("stream", 3, messages, err)
	messages, err = s.GetCategoryMessages(ctx, category)
	check("category", 3, messages, err)
	messages, err = s.GetCategoryMessages(ctx, category, mdb.WithCorrelation(category), mdb.AsConsumerGroup(0, 1))
	check("correlation", 3, messages, err)
	last, err := s.GetLastStreamMessage(ctx, stream, mdb.OfType(m.Type))
	check("last", 1, []mdb.Message{last}, err)
	if version, err := s.StreamVersion(ctx, stream); err != nil || version != 2 {
		t.Errorf("%q: version %d, %v", text, version, err)
	}
	if err := s.Atomically(ctx, []mdb.Category{category}, func(*mdb.Tx) error { return nil }); err != nil {
		t.Errorf("%q: %v", text, err)
	}
	received := 0
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	err = s.SubscribeToStream(ctx, stream, func(_ context.Context, m mdb.Message) error {
		check("subscription", 1, []mdb.Message{m}, nil)
		if received++; received == 3 {
			stop()
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%q: %v", text, err)
	}
	return 3
}

// TestReader checks that a role without the right to write can consume, and that its
// writes fail with a SetupError.
func TestReader(t *testing.T) {
	url := database(t)
	admin := connect(t, url)
	role := "reader" + strings.ToLower(admin.Config().Database)
	for _, sql := range []string{
		"CREATE ROLE " + role + " LOGIN PASSWORD '" + password + "'",
		"GRANT USAGE ON SCHEMA message_store TO " + role,
		"GRANT SELECT ON message_store.messages TO " + role,
		"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA message_store TO " + role,
	} {
		execute(t, admin, sql)
	}
	t.Cleanup(func() { execute(t, connect(t, url), "DROP OWNED BY "+role+"; DROP ROLE "+role) })
	writer, err := mdb.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close()
	for range 3 {
		if _, err := writer.WriteMessage(t.Context(), "account-1", mdb.NewMessage("Happened", nil)); err != nil {
			t.Fatal(err)
		}
	}
	pool := openPool(t, url, 1, configure, func(cfg *pgxpool.Config) {
		cfg.ConnConfig.User, cfg.ConnConfig.Password = role, password
	})
	defer pool.Close()
	for _, opts := range [][]mdb.StoreOption{nil, {mdb.WithDirectSQL()}} {
		s, err := mdb.New(pool, opts...)
		if err != nil {
			t.Fatal(err)
		}
		for _, opts := range [][]mdb.CategorySubscribeOption{nil, {mdb.AsConsumerGroup(0, 1)}} {
			ctx, stop := context.WithCancel(t.Context())
			received := 0
			err := s.SubscribeToCategory(ctx, "account", func(context.Context, mdb.Message) error {
				if received++; received == 3 {
					stop()
				}
				return nil
			}, opts...)
			stop()
			if !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		}
		_, err = s.WriteMessage(t.Context(), "account-1", mdb.NewMessage("Happened", []string{payload}))
		var pgErr *pgconn.PgError
		if !errors.As(err, new(*mdb.SetupError)) || !errors.As(err, &pgErr) || pgErr.Code != "42501" {
			t.Errorf("a write without permission: error %v", err)
		}
		checkCanaries(t, fmt.Sprintf("%+v", err))
	}
}
