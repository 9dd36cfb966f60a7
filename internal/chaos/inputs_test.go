package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/messagedb-go/messagedb/mdb"
)

// argumentError stands for an ArgumentError, that is, for a call that sends nothing.
const argumentError = "argument"

// An input is an argument with the results that the server and the client must give:
// "" if it is accepted, or a SQLSTATE, or argumentError.
type input struct {
	group, name string
	sql         string // in which $1 is the argument
	argument    any
	server      string
	call        func(ctx context.Context, s *mdb.Store) error
	client      string
}

// data returns an input of JSON to write.
func data(what, text, server, client string) input {
	return input{
		"data", what, `SELECT write_message(gen_random_uuid()::text, 'input-1', 'Happened', $1::text::jsonb)`, text, server,
		func(ctx context.Context, s *mdb.Store) error {
			_, err := s.WriteMessage(ctx, "input-1", mdb.NewMessage("Happened", json.RawMessage(text)))
			return err
		}, client,
	}
}

// name returns an input of a stream's name to write to.
func name(what, stream, server, client string) input {
	return input{
		"name", what, `SELECT write_message(gen_random_uuid()::text, $1::text, 'Happened', 'null')`, stream, server,
		func(ctx context.Context, s *mdb.Store) error {
			_, err := s.WriteMessage(ctx, mdb.StreamName(stream), mdb.NewMessage("Happened", nil))
			return err
		}, client,
	}
}

// read returns an input of an option of reading.
func read(what, sql string, argument any, server string, opt mdb.CategoryOption, client string) input {
	return input{"read", what, sql, argument, server, func(ctx context.Context, s *mdb.Store) error {
		_, err := s.GetCategoryMessages(ctx, "input", opt)
		return err
	}, client}
}

// noise returns text that does not compress.
func noise(n int) string {
	rng := rand.New(rand.NewPCG(1, 2))
	var b strings.Builder
	for range n {
		b.WriteByte("0123456789abcdef"[rng.IntN(16)])
	}
	return b.String()
}

var inputs = []input{
	data("JSON cut off", `{"a":`, "22P02", argumentError),
	data("not a number", `NaN`, "22P02", argumentError),
	data("half of a surrogate pair", `"\ud83d"`, "22P02", argumentError),
	data("an escaped zero byte", `"\u0000"`, "22P05", argumentError),
	data("a zero byte", "\"\x00\"", "22021", argumentError),
	data("invalid UTF-8", "\"\xff\"", "22021", argumentError),
	data("unordered keys, one twice", `{"b": 1, "a": 1e3, "a": 2}`, "", ""),
	data("a number that is too large", `1e1000000`, "22003", "22003"),
	data("arrays nested 20,000 deep", strings.Repeat("[", 20_000)+strings.Repeat("]", 20_000), "54001", argumentError),
	{
		"data", "a string of more than 268,435,455 bytes", `SELECT jsonb_build_array(repeat('x', $1::int))::text IS NULL`, 1 << 28, "54000",
		func(ctx context.Context, s *mdb.Store) error {
			_, err := s.WriteMessage(ctx, "input-1", mdb.NewMessage("Happened", strings.Repeat("x", mdb.DefaultMaxMessageSize)))
			return err
		}, argumentError,
	},
	data("null", `null`, "", ""),
	data("a scalar", `1`, "", ""),
	{
		"data", "no data", `SELECT write_message(gen_random_uuid()::text, 'input-1', 'Happened', $1::jsonb)`, nil, "",
		func(ctx context.Context, s *mdb.Store) error {
			_, err := s.WriteMessage(ctx, "input-1", mdb.ProposedMessage{Type: "Happened"})
			return err
		}, "",
	},
	{
		"ID", "not a UUID", `SELECT write_message($1::text, 'input-1', 'Happened', 'null')`, "1", "22P02",
		func(ctx context.Context, s *mdb.Store) error {
			// The type admits only UUIDs, and for the nil UUID the client creates one.
			_, err := s.WriteMessage(ctx, "input-1", mdb.ProposedMessage{ID: uuid.Nil, Type: "Happened"})
			return err
		}, "",
	},
	{
		"ID", "upper case", `SELECT write_message(upper($1::text), 'input-1', 'Happened', 'null')`, "0190a1b2-0000-7000-8000-00000000000a", "",
		func(ctx context.Context, s *mdb.Store) error {
			m := mdb.ProposedMessage{ID: uuid.MustParse(strings.ToUpper(uuid.NewString())), Type: "Happened"}
			_, err := s.WriteMessage(ctx, "input-1", m)
			return err
		}, "",
	},
	name("empty", "", "", argumentError),
	name("a dash", "-", "", argumentError),
	name("no id", "input-", "", argumentError),
	name("no category", "-1", "", argumentError),
	name("spaces", "in put-1 2", "", ""),
	name("Unicode", "вход-№1", "", ""),
	name("more dashes", "input-1-2", "", ""),
	name("a compound id", "input-1+2", "", ""),
	name("category types", "input:command+event-1", "", ""),
	name("a zero byte", "input-\x00", "22021", argumentError),
	name("a long name that compresses", "input-"+strings.Repeat("a", 100_000), "", argumentError),
	name("a long name that does not compress", "input-"+noise(8000), "54000", argumentError),
	read("a batch of 0", `SELECT count(*) FROM get_category_messages('input', 1, $1::bigint)`, 0, "", mdb.WithBatchSize(0), argumentError),
	read("a batch of -2", `SELECT count(*) FROM get_category_messages('input', 1, $1::bigint)`, -2, "2201W", mdb.WithBatchSize(-2), argumentError),
	read("no limit", `SELECT count(*) FROM get_category_messages('input', 1, $1::bigint)`, -1, "", mdb.Unlimited(), ""),
	read("a negative position", `SELECT count(*) FROM get_category_messages('input', $1::bigint)`, -5, "", mdb.FromGlobalPosition(-5), argumentError),
	read("a member beyond the group", `SELECT count(*) FROM get_category_messages('input', 1, 10, NULL, $1::bigint, 2)`, 2, "P0001", mdb.AsConsumerGroup(2, 2), argumentError),
	read("a negative member", `SELECT count(*) FROM get_category_messages('input', 1, 10, NULL, $1::bigint, 2)`, -1, "P0001", mdb.AsConsumerGroup(-1, 2), argumentError),
	read("a group of 0", `SELECT count(*) FROM get_category_messages('input', 1, 10, NULL, 0, $1::bigint)`, 0, "P0001", mdb.AsConsumerGroup(0, 0), argumentError),
	read("a group that is too large", `SELECT count(*) FROM get_category_messages('input', 1, 10, NULL, 0, $1::bigint)`, 40_000, "22003", mdb.AsConsumerGroup(0, 40_000), argumentError),
	read("a correlation that is not a category", `SELECT count(*) FROM get_category_messages('input', 1, 10, $1::text)`, "order-1", "P0001", mdb.WithCorrelation("order-1"), argumentError),
	read("an empty condition", `SELECT count(*) FROM get_category_messages('input', 1, 10, NULL, NULL, NULL, $1::text)`, "", "42601", mdb.WithCondition(""), argumentError),
	read("a condition with a percent sign", `SELECT count(*) FROM get_category_messages('input', 1, 10, NULL, NULL, NULL, $1::text)`, "type LIKE '%x'", "", mdb.WithCondition("type LIKE '%x'"), ""),
}

// TestInputs checks which arguments at the limits of what is valid the server accepts
// when called with plain SQL, and which of them the client accepts.
func TestInputs(t *testing.T) {
	url := database(t)
	admin := connect(t, url)
	execute(t, admin, `SET search_path = message_store, public; SET message_store.sql_condition = 'on'`)
	pool := openPool(t, url, 2, configure)
	t.Cleanup(pool.Close)
	procedures, err := mdb.New(pool, mdb.WithConditions())
	if err != nil {
		t.Fatal(err)
	}
	direct, err := mdb.New(pool, mdb.WithConditions(), mdb.WithDirectSQL())
	if err != nil {
		t.Fatal(err)
	}
	for _, in := range inputs {
		t.Run(in.group+"/"+in.name, func(t *testing.T) {
			_, err := admin.Exec(t.Context(), in.sql, in.argument)
			if got := code(err); got != in.server {
				t.Errorf("the server returns %q (%v), want %q", got, err, in.server)
			}
			for way, s := range map[string]*mdb.Store{"procedures": procedures, "direct SQL": direct} {
				if err := in.call(t.Context(), s); code(err) != in.client {
					t.Errorf("with %s the client returns %q (%v), want %q", way, code(err), err, in.client)
				}
			}
		})
	}
	results.add("Inputs", tally{faults: len(inputs)})
}

// code returns what an input expects of an error.
func code(err error) string {
	var pgErr *pgconn.PgError
	switch {
	case err == nil:
		return ""
	case errors.As(err, new(*mdb.ArgumentError)):
		return argumentError
	case errors.As(err, &pgErr):
		return pgErr.Code
	}
	return err.Error()
}
