package conformance

import (
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// conditions is about the setting that allows conditions; reads is about their
// effect.
func (s *suite) conditions(t *testing.T) {
	t.Helper()
	category := mdbtest.Category("condition")
	stream := category.Stream("1")
	write(t, s.store.Pool(), proposal{stream: stream})
	of := string(category)
	if s.section == "get_stream_messages" {
		of = string(stream)
	}
	call := `SELECT position FROM message_store.` + s.section + `($1::varchar, condition => 'position = 0')`

	s.check(t, "rejects a condition while the setting is unset", func(t *testing.T) {
		conn := s.connect(t, func(cfg *pgx.ConnConfig) { delete(cfg.RuntimeParams, conditionSetting) })
		if setting := value[*string](t, conn, `SELECT current_setting('message_store.sql_condition', true)`); setting != nil && *setting != "off" {
			t.Fatalf("the role or the database sets message_store.sql_condition to %q, want it unset or off", *setting)
		}
		err := rejection(t, conn, call, of)
		if want := "Retrieval with SQL condition is not activated"; err.Code != "P0001" || err.Message != want {
			t.Errorf("got %s (%s), want P0001 (%s)", err.Code, err.Message, want)
		}
	})

	s.check(t, "condition: allowed by any value of the setting but off", func(t *testing.T) {
		tx := s.begin(t, pgx.TxOptions{})
		set(t, tx, conditionSetting, "yes")
		if got := list[int64](t, tx, call, of); len(got) != 1 {
			t.Errorf("got %d messages, want 1", len(got))
		}
	})
}
