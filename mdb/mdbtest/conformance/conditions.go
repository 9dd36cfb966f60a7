package conformance

import (
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// conditions is about the setting that allows them; what they do is with read.
func (s *suite) conditions(t *testing.T) {
	t.Helper()
	category := mdbtest.Category("condition")
	stream := category.Stream("1")
	write(t, s.store.Pool(), proposal{stream: stream})

	calls := []struct{ row, function, of string }{
		{"C28", "get_stream_messages", string(stream)},
		{"C44", "get_category_messages", string(category)},
	}
	for _, c := range calls {
		call := `SELECT position FROM message_store.` + c.function + `($1::varchar, condition => 'position = 0')`

		t.Run(c.row+" "+c.function+" with a condition while the setting is not set", func(t *testing.T) {
			t.Parallel()
			conn := s.connect(t, func(cfg *pgx.ConnConfig) { delete(cfg.RuntimeParams, conditionSetting) })
			if setting := value[*string](t, conn, `SELECT current_setting('message_store.sql_condition', true)`); setting != nil && *setting != "off" {
				t.Fatalf("the role or the database sets message_store.sql_condition to %q, want it unset or off", *setting)
			}
			err := refusal(t, conn, call, c.of)
			if want := "Retrieval with SQL condition is not activated"; err.Code != "P0001" || err.Message != want {
				t.Errorf("got %s (%s), want P0001 (%s)", err.Code, err.Message, want)
			}
		})

		t.Run(c.row+" "+c.function+" with a condition while the setting is another word than off", func(t *testing.T) {
			t.Parallel()
			tx := s.begin(t, pgx.TxOptions{})
			set(t, tx, conditionSetting, "yes")
			if got := list[int64](t, tx, call, c.of); len(got) != 1 {
				t.Errorf("got %d messages, want 1", len(got))
			}
		})
	}

	t.Run("C28 a store without WithConditions takes no condition", func(t *testing.T) {
		t.Parallel()
		_, err := s.plain.GetStreamMessages(t.Context(), stream, mdb.WithCondition("true"))
		var refused *mdb.ArgumentError
		if !errors.As(err, &refused) {
			t.Errorf("GetStreamMessages returns %v, want an *ArgumentError", err)
		}
		_, err = s.plain.GetCategoryMessages(t.Context(), category, mdb.WithCondition("true"))
		if !errors.As(err, &refused) {
			t.Errorf("GetCategoryMessages returns %v, want an *ArgumentError", err)
		}
	})
}
