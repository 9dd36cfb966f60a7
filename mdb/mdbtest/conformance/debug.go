package conformance

import (
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// debug's notices have no fixed text: Message DB's own are for reading.
func (s *suite) debug(t *testing.T) {
	t.Helper()
	for _, test := range []struct {
		name       string
		setting    string
		write, get bool
	}{
		{"C18 message_store.debug", "message_store.debug", true, true},
		{"C18 message_store.debug_write", "message_store.debug_write", true, false},
		{"C18 message_store.debug_get", "message_store.debug_get", false, true},
		{"C18 no setting", "", false, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
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
