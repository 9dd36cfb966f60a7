package mdb_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdb/mdbtest"
)

// quoting makes the server quote a payload in every part of its errors that can contain
// one.
const quoting = `
ALTER TABLE message_store.messages ADD CONSTRAINT checked CHECK (type <> 'Checked');
CREATE FUNCTION public.quote() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	CASE NEW.type
	WHEN 'Null' THEN
		NEW.position := NULL; -- the detail is the whole row
	WHEN 'Raised' THEN
		RAISE EXCEPTION 'refused' USING ERRCODE = 'P0001', DETAIL = NEW.data::text, HINT = 'a hint';
	WHEN 'JSON' THEN
		PERFORM (NEW.data->>'broken')::jsonb; -- the context quotes the line
	WHEN 'Query' THEN
		EXECUTE 'SELECT nothing AS "' || (NEW.data->>'text') || '"'; -- the internal query
	WHEN 'Number' THEN
		PERFORM (NEW.data->>'text')::int; -- the message itself
	WHEN 'Time' THEN
		PERFORM (NEW.data->>'text')::timestamp;
	ELSE
		NULL;
	END CASE;
	RETURN NEW;
END
$$;
CREATE TRIGGER quote BEFORE INSERT ON message_store.messages FOR EACH ROW EXECUTE FUNCTION public.quote();`

// TestErrorsHoldNoPayload checks that no error quotes a payload, in whichever way it is
// printed.
func TestErrorsHoldNoPayload(t *testing.T) {
	t.Parallel()
	var log journal
	s := mdbtest.Store(t, log.option(), attempts(2))
	exec(t, s.Pool(), quoting)
	for typ, code := range map[string]string{"Checked": "23514", "Null": "23502", "Raised": "P0001", "JSON": "22P02", "Query": "42703"} {
		t.Run(typ, func(t *testing.T) { provoke(t, s, typ, code) })
	}
	checkNoCanary(t, errors.New(log.String()))
}

// TestErrorTextsHoldNoPayload checks the errors whose very text quotes a value, which are
// those of casts.
func TestErrorTextsHoldNoPayload(t *testing.T) {
	t.Parallel()
	s := mdbtest.Store(t, mdb.WithConditions())
	exec(t, s.Pool(), quoting)
	for typ, code := range map[string]string{"Number": "22P02", "Time": "22007"} {
		t.Run(typ, func(t *testing.T) { provoke(t, s, typ, code) })
	}
	category := mdbtest.Category("scrub")
	write(t, s, category.Stream("1"), mdb.NewMessage("Happened", map[string]string{
		"text": canary, "words": canary + " " + canary, "long": canary + strings.Repeat("x", 3000), "dotted": canary + ".a.b",
	}))
	for condition, code := range map[mdb.SQL]string{
		"(data->>'text')::int = 1":      "22P02",
		"(data->>'text')::date IS NULL": "22007",
		// Types with a syntax of their own, and names of objects.
		"(data->>'words')::tsquery IS NULL":            "42601",
		"(data->>'long')::tsquery IS NULL":             "54000",
		"(data->>'text')::regclass IS NULL":            "42P01",
		"(data->>'dotted')::regclass IS NULL":          "0A000",
		"(data->>'text')::regproc IS NULL":             "42883",
		"(data->>'text')::regnamespace IS NULL":        "3F000",
		"has_table_privilege(data->>'text', 'SELECT')": "42P01",
	} {
		_, err := s.GetCategoryMessages(t.Context(), category, mdb.WithCondition(condition))
		wantCode(t, err, code)
		checkNoCanary(t, err)
	}
}

// provoke makes calls fail in the server while it processes a payload.
func provoke(t *testing.T, s *mdb.Store, typ, code string) {
	category := mdbtest.Category("scrub")
	m := mdb.NewMessage(typ, map[string]string{"text": canary, "broken": "{" + canary})
	m.Metadata = []string{canary}
	onBoth(t, s, func(t *testing.T, c calls, _ database) {
		_, err := c.WriteMessage(t.Context(), category.Stream("1"), m)
		checkScrubbed(t, err, code)
	})
	_, err := s.WriteMessages(t.Context(), category.Stream("1"), []mdb.ProposedMessage{mdb.NewMessage("Happened", nil), m})
	checkScrubbed(t, err, code)
	err = s.Atomically(t.Context(), []mdb.Category{category}, func(tx *mdb.Tx) error {
		_, _ = tx.WriteMessage(t.Context(), category.Stream("1"), m)
		return nil
	})
	checkScrubbed(t, err, code)
}

func checkScrubbed(t *testing.T, err error, code string) {
	t.Helper()
	pgErr := wantCode(t, err, code)
	checkNoCanary(t, err)
	if !strings.Contains(err.Error(), "(SQLSTATE "+code+")") {
		t.Errorf("the error does not contain its SQLSTATE: %v", err)
	}
	// The program can unwrap everything that the server said.
	if pgErr.Message == "" || pgErr.SeverityUnlocalized != "ERROR" || pgErr.Routine == "" || pgErr.Where+pgErr.Detail == "" {
		t.Errorf("got the server's error %+v, want it complete", *pgErr)
	}
}

// TestErrorKeepsTheServers checks that errors.As finds the server's error unchanged.
func TestErrorKeepsTheServers(t *testing.T) {
	t.Parallel()
	s := mdbtest.SharedStore(t)
	stream := mdbtest.Category("scrub").Stream("1")
	m := mdb.NewMessage("Happened", nil)
	write(t, s, stream, m)
	_, err := s.WriteMessage(t.Context(), stream, m)
	got := *wantCode(t, err, "23505")
	_, err = s.Pool().Exec(t.Context(), `SELECT message_store.write_message($1, $2, 'Happened', NULL)`, m.ID.String(), string(stream))
	want := *wantError[*pgconn.PgError](t, err)
	if want.Detail == "" || want.Where == "" {
		t.Fatalf("got the server's error %+v, so this test proves nothing", want)
	}
	if got != want {
		t.Errorf("got error\n%+v, want\n%+v", got, want)
	}
}

// TestErrorLanguages checks that no error quotes a payload when the server uses another
// language, and that errors are classified all the same.
func TestErrorLanguages(t *testing.T) {
	t.Parallel()
	s := mdbtest.Store(t)
	exec(t, s.Pool(), quoting)
	for _, language := range []string{"de_DE.UTF-8", "fr_FR.UTF-8", "ja_JP.UTF-8"} {
		t.Run(language, func(t *testing.T) {
			if _, err := s.Pool().Exec(t.Context(), "SELECT set_config('lc_messages', $1, true)", language); err != nil {
				t.Skipf("the server cannot use %s here: %v (Debian: apt-get install locales, localedef -i %.5s -f UTF-8 %[1]s)", language, err, language)
			}
			var spoken *pgconn.PgError
			pool := newPool(t, s.Pool().Config().ConnString(), parameter("lc_messages", language))
			if _, err := pool.Exec(t.Context(), "SELECT nothing"); !errors.As(err, &spoken) || strings.Contains(spoken.Message, "does not exist") {
				t.Skipf("the server was built without translations: %v", err)
			}
			local := newStore(t, pool)
			for typ, code := range map[string]string{"Number": "22P02", "Time": "22007", "Raised": "P0001", "Checked": "23514"} {
				provoke(t, local, typ, code)
			}
			_, err := local.WriteMessage(t.Context(), "scrub-1", mdb.NewMessage("Happened", nil), mdb.ExpectVersion(7))
			wantError[*mdb.WrongVersionError](t, err)
		})
	}
}
