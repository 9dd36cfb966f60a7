package conformance

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/mdb"
)

// A readFile contains messages, and reads of them with their expected results.
type readFile struct {
	Messages []struct {
		Stream   string          `json:"stream"`
		Type     string          `json:"type"`
		Metadata json.RawMessage `json:"metadata"`
	} `json:"messages"`
	Reads []readCase `json:"reads"`
}

// A readCase contains the arguments of a read. nil leaves an argument out.
type readCase struct {
	Name        string  `json:"name"`
	Of          string  `json:"of"`
	Position    *int64  `json:"position"`
	From        *int    `json:"from"` // the message whose global position it is; their number: after the last
	BatchSize   *int64  `json:"batch_size"`
	Correlation *string `json:"correlation"`
	Member      *int64  `json:"member"`
	Size        *int64  `json:"size"`
	Condition   *string `json:"condition"`

	Want []int `json:"want"` // the messages, by their numbers
}

// reads makes each read of the section's file by SQL that leaves arguments out, by
// SQL with NULL in their place, and by package mdb.
func (s *suite) reads(t *testing.T) {
	t.Helper()
	file, byMDB := "stream_reads.json", readCase.ofStream
	if s.section == "get_category_messages" {
		file, byMDB = "category_reads.json", readCase.ofCategory
	}
	data := load[readFile](t, file)
	at := newPlace("read")
	written := make([]record, len(data.Messages))
	for i, m := range data.Messages {
		var metadata any
		if m.Metadata != nil {
			metadata = at.fill(string(m.Metadata))
		}
		stream := at.fill(m.Stream)
		position := write(t, s.store.Pool(), proposal{
			stream: mdb.StreamName(stream), typ: m.Type, data: fmt.Sprintf(`{"n": %d}`, i), metadata: metadata,
		})
		written[i] = asText(t, s.store.Pool(), stream, position)
	}

	for _, c := range data.Reads {
		c.fill(at, written)
		want := make([]record, len(c.Want))
		for i, n := range c.Want {
			want[i] = written[n]
		}
		check := func(t *testing.T, how string, got []record) {
			t.Helper()
			if !slices.Equal(got, want) {
				t.Errorf("%s: got %s, want %s", how, brief(got), brief(want))
			}
		}

		s.check(t, c.Name, func(t *testing.T) {
			tx := s.begin(t, pgx.TxOptions{})
			if c.Condition != nil {
				set(t, tx, conditionSetting, "on")
			}
			from, args := c.named(s.section)
			check(t, "SQL with named arguments", records(t, tx, from, args...))
			from, args = c.positional(s.section)
			check(t, "SQL with all arguments", records(t, tx, from, args...))
			if err := tx.Rollback(t.Context()); err != nil {
				t.Fatal(err)
			}

			s.onStoreAndTx(t, func(how string, client client) {
				messages, err := byMDB(c, t, client)
				var rejected *mdb.ArgumentError
				switch {
				case c.rejected():
					if !errors.As(err, &rejected) {
						t.Errorf("%s: got error %v, want an *ArgumentError", how, err)
					}
				case err != nil:
					t.Fatal(err)
				default:
					check(t, how, recorded(messages...))
				}
			})
		})
	}
}

// fill replaces what the file can only name: categories, and the global positions of
// messages.
func (c *readCase) fill(at place, written []record) {
	c.Of = at.fill(c.Of)
	if c.Correlation != nil {
		correlation := at.fill(*c.Correlation)
		c.Correlation = &correlation
	}
	switch {
	case c.From == nil:
	case *c.From == len(written):
		after := written[len(written)-1].GlobalPosition + 1
		c.Position = &after
	default:
		c.Position = &written[*c.From].GlobalPosition
	}
}

// asText returns a message by the table, with the columns as the functions give
// them.
func asText(t testing.TB, db querier, stream string, position int64) record {
	t.Helper()
	rs := collect(t, db, pgx.RowToStructByPos[record],
		`SELECT id, stream_name, type, position, global_position, data::text, metadata::text, time
		FROM message_store.messages WHERE stream_name = $1::text AND position = $2::bigint`, stream, position)
	if len(rs) != 1 {
		t.Fatalf("stream %s has %d messages at position %d, want 1", stream, len(rs), position)
	}
	return rs[0]
}

// rejected reports whether mdb rejects arguments that the server accepts: a batch of 0
// never reaches the end of a stream, no position is below 0, and an empty id is a
// mistake.
func (c readCase) rejected() bool {
	return c.BatchSize != nil && *c.BatchSize == 0 || c.Position != nil && *c.Position < 0 || strings.HasSuffix(c.Of, "-")
}

type argument struct {
	name, typ string
	value     any // nil: left out
}

func (c readCase) arguments() []argument {
	return []argument{
		{"position", "bigint", optional(c.Position)},
		{"batch_size", "bigint", optional(c.BatchSize)},
		{"correlation", "varchar", optional(c.Correlation)},
		{"consumer_group_member", "bigint", optional(c.Member)},
		{"consumer_group_size", "bigint", optional(c.Size)},
		{"condition", "varchar", optional(c.Condition)},
	}
}

func optional[T any](v *T) any {
	if v == nil {
		return nil
	}
	return *v
}

func (c readCase) named(function string) (from string, args []any) {
	args = []any{c.Of}
	call := []string{"$1::varchar"}
	for _, a := range c.arguments() {
		if a.value != nil {
			args = append(args, a.value)
			call = append(call, fmt.Sprintf(`%s => $%d::%s`, pgx.Identifier{a.name}.Sanitize(), len(args), a.typ))
		}
	}
	return "message_store." + function + "(" + strings.Join(call, ", ") + ")", args
}

func (c readCase) positional(function string) (from string, args []any) {
	args = []any{c.Of}
	call := []string{"$1::varchar"}
	for _, a := range c.arguments() {
		if function == "get_stream_messages" && (a.name == "correlation" || strings.HasPrefix(a.name, "consumer_group")) {
			continue
		}
		args = append(args, a.value)
		call = append(call, fmt.Sprintf(`$%d::%s`, len(args), a.typ))
	}
	return "message_store." + function + "(" + strings.Join(call, ", ") + ")", args
}

func (c readCase) ofStream(t testing.TB, client client) ([]mdb.Message, error) {
	t.Helper()
	var opts []mdb.StreamOption
	if c.Position != nil {
		opts = append(opts, mdb.FromPosition(*c.Position))
	}
	opts = append(opts, streamOptions(c.options())...)
	return client.GetStreamMessages(t.Context(), mdb.StreamName(c.Of), opts...)
}

func (c readCase) ofCategory(t testing.TB, client client) ([]mdb.Message, error) {
	t.Helper()
	var opts []mdb.CategoryOption
	if c.Position != nil {
		opts = append(opts, mdb.FromGlobalPosition(*c.Position))
	}
	opts = append(opts, categoryOptions(c.options())...)
	if c.Correlation != nil {
		opts = append(opts, mdb.WithCorrelation(mdb.Category(*c.Correlation)))
	}
	if c.Size != nil {
		opts = append(opts, mdb.AsConsumerGroup(int(*c.Member), int(*c.Size)))
	}
	return client.GetCategoryMessages(t.Context(), mdb.Category(c.Of), opts...)
}

func (c readCase) options() []mdb.ReadOption {
	var opts []mdb.ReadOption
	switch {
	case c.BatchSize == nil:
	case *c.BatchSize == -1:
		opts = append(opts, mdb.Unlimited())
	default:
		opts = append(opts, mdb.WithBatchSize(int(*c.BatchSize)))
	}
	if c.Condition != nil {
		opts = append(opts, mdb.WithCondition(mdb.SQL(*c.Condition)))
	}
	return opts
}

// brief shows where records are and their data.
func brief(rs []record) string {
	texts := make([]string, len(rs))
	for i := range rs {
		r := &rs[i]
		texts[i] = r.Stream + "/" + strconv.FormatInt(r.Position, 10) + " " + r.Data.String
	}
	return "[" + strings.Join(texts, ", ") + "]"
}
