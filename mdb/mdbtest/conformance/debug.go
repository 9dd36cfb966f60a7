package conformance

import (
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// debug does not compare the texts of notices, which are for people.
func (s *suite) debug(t *testing.T) {
	t.Helper()
	for _, test := range []struct {
		name       string
		setting    string
		write, get bool
	}{
		{"message_store.debug: notices of writes and reads", "message_store.debug", true, true},
		{"message_store.debug_write: notices of writes", "message_store.debug_write", true, false},
		{"message_store.debug_get: notices of reads", "message_store.debug_get", false, true},
		{"unset: no notices", "", false, false},
	} {
		s.check(t, test.name, func(t *testing.T) {
			var notices int
			conn := s.connect(t, func(cfg *pgx.ConnConfig) {
				cfg.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
					if n.Code == "00000" {
						notices++
					}
				}
			})
			tx, err := conn.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			rollbackAfter(t, tx)
			set(t, tx, "client_min_messages", "notice")
			if test.setting != "" {
				set(t, tx, test.setting, "on")
			}
			category := mdbtest.Category("debug")
			stream := category.Stream("1")
			noticed := func(call string, want bool) {
				t.Helper()
				if (notices > 0) != want {
					t.Errorf("%s: got %d notices, want some: %t", call, notices, want)
				}
				notices = 0
			}

			if got := write(t, tx, proposal{stream: stream}); got != 0 {
				t.Errorf("write_message returns %d, want 0", got)
			}
			noticed("write_message", test.write)

			want := records(t, tx, `message_store.messages WHERE stream_name = $1::text`, string(stream))
			for function, arg := range map[string]string{
				"get_stream_messages":     string(stream),
				"get_category_messages":   string(category),
				"get_last_stream_message": string(stream),
			} {
				got := records(t, tx, `message_store.`+function+`($1::varchar)`, arg)
				noticed(function, test.get)
				if len(got) != 1 || !slices.Equal(got, want) {
					t.Errorf("%s: got %+v, want %+v", function, got, want)
				}
			}
		})
	}
}
