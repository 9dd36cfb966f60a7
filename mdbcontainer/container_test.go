package mdbcontainer_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/moby/moby/client"
	"github.com/testcontainers/testcontainers-go"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdbcontainer"
)

const triggers = "SELECT count(*) FROM pg_trigger WHERE tgname = 'message_store_notify'"

// TestRun checks the defaults, and that a store works both ways.
func TestRun(t *testing.T) {
	t.Parallel()
	c := start(t)
	for name, opts := range map[string][]mdb.StoreOption{"procedures": nil, "direct SQL": {mdb.WithDirectSQL()}} {
		s := open(t, c, opts...)
		if err := s.Check(t.Context()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		stream := mdb.Category("account").Stream(uuid.NewString())
		write(t, s, stream)
		if v := version(t, s, stream); v != 0 {
			t.Errorf("%s: the stream is at %d, want 0", name, v)
		}
	}
	checkAnswers(t, c, map[string]string{
		"SELECT current_database()": mdbcontainer.DefaultDatabase,
		"SELECT current_user":       "postgres",
		"SHOW fsync":                "off",
		"SHOW server_encoding":      "UTF8",
	})
	if n := query[int](t, c, triggers); n != 0 {
		t.Errorf("%d triggers without WithNotify, want 0", n)
	}
}

// TestOptions checks the effect of each option, with values that need quoting.
func TestOptions(t *testing.T) {
	t.Parallel()
	table := file(t, "CREATE TABLE balances (account text); INSERT INTO balances VALUES ('123')")
	c := start(t,
		mdbcontainer.WithDatabase("a b/c"),
		mdbcontainer.WithUsername("me and you"),
		mdbcontainer.WithPassword("p@ss w%rd"),
		mdbcontainer.WithSetting("fsync", "on"),
		mdbcontainer.WithSetting("application_name", "it's = a name"),
		mdbcontainer.WithInitScripts(table, file(t, "CREATE VIEW copies AS TABLE balances")),
		mdbcontainer.WithNotify())
	checkAnswers(t, c, map[string]string{
		"SELECT current_database()":                    "a b/c",
		"SELECT current_user":                          "me and you",
		"SHOW fsync":                                   "on",
		"SHOW application_name":                        "it's = a name",
		"SELECT account FROM copies":                   "123",
		"SELECT message_store.message_store_version()": "1.3.0",
	})
	if n := query[int](t, c, triggers); n != 1 {
		t.Errorf("%d triggers, want 1", n)
	}
	url, err := c.ConnectionString(t.Context())
	if err != nil || !strings.Contains(url, "p%40ss%20w%25rd") {
		t.Errorf("got %s, %v, want the password in it", url, err)
	}
}

// checkAnswers checks the results of queries.
func checkAnswers(t *testing.T, c *mdbcontainer.Container, answers map[string]string) {
	t.Helper()
	for sql, want := range answers {
		if got := query[string](t, c, sql); got != want {
			t.Errorf("%s: %s, want %s", sql, got, want)
		}
	}
}

func file(t *testing.T, sql string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "init.sql")
	if err := os.WriteFile(name, []byte(sql), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// TestReuse checks that a reused container keeps its data and its database, and that each
// Run runs the scripts.
func TestReuse(t *testing.T) {
	t.Parallel()
	name := testcontainers.WithReuseByName("mdbcontainer-" + uuid.NewString())
	script := file(t, "CREATE TABLE IF NOT EXISTS runs (n int); INSERT INTO runs VALUES (1)")
	first := start(t, name, mdbcontainer.WithInitScripts(script))
	write(t, open(t, first), "account-123")

	again := start(t, name, mdbcontainer.WithInitScripts(script),
		mdbcontainer.WithDatabase("other"), mdbcontainer.WithPassword("other"))
	if got, want := again.GetContainerID(), first.GetContainerID(); got != want {
		t.Errorf("got container %s, want %s again", got, want)
	}
	if v := version(t, open(t, again), "account-123"); v != 0 {
		t.Errorf("the stream is at %d, want 0", v)
	}
	if n := query[int](t, again, "SELECT count(*) FROM runs"); n != 2 {
		t.Errorf("the script ran %d times, want 2", n)
	}
}

// TestFailures checks that an error gives the cause and that no container is left.
func TestFailures(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		opt  testcontainers.ContainerCustomizer
		want []string
	}{
		"script":  {mdbcontainer.WithInitScripts(file(t, "SELECT no_such_column")), []string{"init.sql", "no_such_column"}},
		"setting": {mdbcontainer.WithSetting("no_such_setting", "1"), []string{"exited", `unrecognized configuration parameter "no_such_setting"`}},
		"image":   {testcontainers.WithEntrypoint("sh", "-c", "echo not a server; exit 3"), []string{"exited with status 3", "not a server"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			id := "mdbcontainer-" + uuid.NewString()
			c, err := mdbcontainer.Run(t.Context(), image, testcontainers.WithName(id), test.opt)
			if err == nil || c != nil {
				t.Fatalf("got %v, %v, want an error", c, err)
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error lacks %q: %v", want, err)
				}
			}
			engine, err := testcontainers.NewDockerClientWithOpts(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer engine.Close()
			if _, err := engine.ContainerInspect(t.Context(), id, client.ContainerInspectOptions{}); err == nil {
				t.Error("the container is left")
			}
		})
	}
}

// TestInvalidArguments checks that invalid arguments are rejected.
func TestInvalidArguments(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		image string
		opt   testcontainers.ContainerCustomizer
		want  string
	}{
		"image":    {"", mdbcontainer.WithNotify(), `the image is ""`},
		"database": {image, mdbcontainer.WithDatabase(""), "the database is empty"},
		"user":     {image, mdbcontainer.WithUsername("\x00"), "the user is empty or contains a zero byte"},
		"password": {image, mdbcontainer.WithPassword(""), "the password is empty"},
		"setting":  {image, mdbcontainer.WithSetting("work mem", "1"), `the setting is "work mem"`},
		"script":   {image, mdbcontainer.WithInitScripts("/no/such/file"), "/no/such/file"},
	} {
		if _, err := mdbcontainer.Run(t.Context(), test.image, test.opt); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %q", name, err, test.want)
		}
	}
}
