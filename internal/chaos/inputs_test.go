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

// isArgument stands for an ArgumentError, that is, for a call that sends nothing.
const isArgument = "argument"

// An input is what the server makes of something that it is given, and what the
// client does: each is "" if it is accepted, or a SQLSTATE, or isArgument.
type input struct {
	row, what string
	sql       string // in which $1 is the argument
	argument  any
	server    string
	call      func(ctx context.Context, s *mdb.Store) error
	client    string
}

// data is the input of JSON.
func data(row, what, text, server, client string) input {
	return input{
		row, what, `SELECT write_message(gen_random_uuid()::text, 'input-1', 'Happened', $1::text::jsonb)`, text, server,
		func(ctx context.Context, s *mdb.Store) error {
			_, err := s.WriteMessage(ctx, "input-1", mdb.NewMessage("Happened", json.RawMessage(text)))
			return err
		}, client,
	}
}

// name is the input of a stream's name to write to.
func name(row, what, stream, server, client string) input {
	return input{
		row, what, `SELECT write_message(gen_random_uuid()::text, $1::text, 'Happened', 'null')`, stream, server,
		func(ctx context.Context, s *mdb.Store) error {
			_, err := s.WriteMessage(ctx, mdb.StreamName(stream), mdb.NewMessage("Happened", nil))
			return err
		}, client,
	}
}

// read is the input of an option of reading.
func read(row, what, sql string, argument any, server string, opt mdb.CategoryReadOption, client string) input {
	return input{row, what, sql, argument, server, func(ctx context.Context, s *mdb.Store) error {
		_, err := s.GetCategoryMessages(ctx, "input", opt)
		return err
	}, client}
}

// noise is text that does not compress.
func noise(n int) string {
	rng := rand.New(rand.NewPCG(1, 2))
	var b strings.Builder
	for range n {
		b.WriteByte("0123456789abcdef"[rng.IntN(16)])
	}
	return b.String()
}

var inputs = []input{
	data("F30", "JSON cut off", `{"a":`, "22P02", isArgument),
	data("F30", "not a number", `NaN`, "22P02", isArgument),
	data("F30", "half of a surrogate pair", `"\ud83d"`, "22P02", isArgument),
	data("F31", "an escaped zero", `"\u0000"`, "22P05", isArgument),
	data("F31", "a zero", "\"\x00\"", "22021", isArgument),
	data("F31", "bytes that are no UTF-8", "\"\xff\"", "22021", isArgument),
	data("F32", "keys in another order, one twice", `{"b": 1, "a": 1e3, "a": 2}`, "", ""),
	data("F33", "a number that is too large", `1e1000000`, "22003", "22003"),
	data("F33", "lists in lists, 20,000 deep", strings.Repeat("[", 20_000)+strings.Repeat("]", 20_000), "54001", isArgument),
	{
		"F34", "a string of more than 268,435,455 bytes", `SELECT jsonb_build_array(repeat('x', $1::int))::text IS NULL`, 1 << 28, "54000",
		func(ctx context.Context, s *mdb.Store) error {
			_, err := s.WriteMessage(ctx, "input-1", mdb.NewMessage("Happened", strings.Repeat("x", mdb.DefaultMaxMessageSize)))
			return err
		}, isArgument,
	},
	data("F35", "null", `null`, "", ""),
	data("F35", "a scalar", `1`, "", ""),
	{
		"F35", "nothing", `SELECT write_message(gen_random_uuid()::text, 'input-1', 'Happened', $1::jsonb)`, nil, "",
		func(ctx context.Context, s *mdb.Store) error {
			_, err := s.WriteMessage(ctx, "input-1", mdb.ProposedMessage{Type: "Happened"})
			return err
		}, "",
	},
	{
		"F36", "an ID that is none", `SELECT write_message($1::text, 'input-1', 'Happened', 'null')`, "1", "22P02",
		func(ctx context.Context, s *mdb.Store) error {
			// A UUID by type: what is not one cannot be given, and nil is one that is made.
			_, err := s.WriteMessage(ctx, "input-1", mdb.ProposedMessage{ID: uuid.Nil, Type: "Happened"})
			return err
		}, "",
	},
	{
		"F36", "an ID in upper case", `SELECT write_message(upper($1::text), 'input-1', 'Happened', 'null')`, "0190a1b2-0000-7000-8000-00000000000a", "",
		func(ctx context.Context, s *mdb.Store) error {
			m := mdb.ProposedMessage{ID: uuid.MustParse(strings.ToUpper(uuid.NewString())), Type: "Happened"}
			_, err := s.WriteMessage(ctx, "input-1", m)
			return err
		}, "",
	},
	name("F37", "no name", "", "", isArgument),
	name("F37", "a dash", "-", "", isArgument),
	name("F37", "no id", "input-", "", isArgument),
	name("F37", "no category", "-1", "", isArgument),
	name("F37", "spaces", "in put-1 2", "", ""),
	name("F37", "Unicode", "вход-№1", "", ""),
	name("F37", "more dashes", "input-1-2", "", ""),
	name("F37", "a compound id", "input-1+2", "", ""),
	name("F37", "category types", "input:command+event-1", "", ""),
	name("F37", "a zero", "input-\x00", "22021", isArgument),
	name("F38", "a long name that compresses", "input-"+strings.Repeat("a", 100_000), "", ""),
	name("F38", "a long name that does not", "input-"+noise(8000), "54000", "54000"),
	read("F39", "a batch of none", `SELECT count(*) FROM get_category_messages('input', 1, $1::bigint)`, 0, "", mdb.WithBatchSize(0), isArgument),
	read("F39", "a batch of -2", `SELECT count(*) FROM get_category_messages('input', 1, $1::bigint)`, -2, "2201W", mdb.WithBatchSize(-2), isArgument),
	read("F39", "no limit", `SELECT count(*) FROM get_category_messages('input', 1, $1::bigint)`, -1, "", mdb.Unlimited(), ""),
	read("F39", "a position below all", `SELECT count(*) FROM get_category_messages('input', $1::bigint)`, -5, "", mdb.FromGlobalPosition(-5), isArgument),
	read("F40", "a member that is not of the group", `SELECT count(*) FROM get_category_messages('input', 1, 10, NULL, $1::bigint, 2)`, 2, "P0001", mdb.AsConsumerGroup(2, 2), isArgument),
	read("F40", "a member below 0", `SELECT count(*) FROM get_category_messages('input', 1, 10, NULL, $1::bigint, 2)`, -1, "P0001", mdb.AsConsumerGroup(-1, 2), isArgument),
	read("F40", "a group of none", `SELECT count(*) FROM get_category_messages('input', 1, 10, NULL, 0, $1::bigint)`, 0, "P0001", mdb.AsConsumerGroup(0, 0), isArgument),
	read("F40", "a group that is too large", `SELECT count(*) FROM get_category_messages('input', 1, 10, NULL, 0, $1::bigint)`, 40_000, "22003", mdb.AsConsumerGroup(0, 40_000), isArgument),
	read("F40", "a correlation that is no category", `SELECT count(*) FROM get_category_messages('input', 1, 10, $1::text)`, "order-1", "P0001", mdb.WithCorrelation("order-1"), isArgument),
	read("F41", "an empty condition", `SELECT count(*) FROM get_category_messages('input', 1, 10, NULL, NULL, NULL, $1::text)`, "", "42601", mdb.WithCondition(""), isArgument),
	read("F41", "a condition with a percent sign", `SELECT count(*) FROM get_category_messages('input', 1, 10, NULL, NULL, NULL, $1::text)`, "type LIKE '%x'", "", mdb.WithCondition("type LIKE '%x'"), ""),
}

// TestInputs gives the server, by SQL alone, and the client what is at the edge of what
// may be given, and beyond.
func TestInputs(t *testing.T) {
	url := database(t)
	admin := connect(t, url)
	execute(t, admin, `SET search_path = message_store, public; SET message_store.sql_condition = 'on'`)
	pool := openPool(t, url, 2, mdb.Configure)
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
		t.Run(in.row+"/"+in.what, func(t *testing.T) {
			_, err := admin.Exec(t.Context(), in.sql, in.argument)
			if got := says(err); got != in.server {
				t.Errorf("the server says %q (%v), want %q", got, err, in.server)
			}
			for way, s := range map[string]*mdb.Store{"procedures": procedures, "direct SQL": direct} {
				if err := in.call(t.Context(), s); says(err) != in.client {
					t.Errorf("by %s the client says %q (%v), want %q", way, says(err), err, in.client)
				}
			}
		})
	}
	results.enter("Inputs", tally{faults: len(inputs)})
}

// says tells an error apart.
func says(err error) string {
	var pgErr *pgconn.PgError
	switch {
	case err == nil:
		return ""
	case errors.As(err, new(*mdb.ArgumentError)):
		return isArgument
	case errors.As(err, &pgErr):
		return pgErr.Code
	}
	return err.Error()
}
