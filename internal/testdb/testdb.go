// Package testdb provides databases for tests with Message DB installed: by package
// schema or, to run the same tests on the original, by Message DB's own script.
package testdb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/pgtest"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

// officialFolder is the environment variable with the folder of the unpacked npm
// package @eventide/message-db. Tests run on the original SQL if it is set.
const officialFolder = "MDB_TEST_MESSAGE_DB"

// Official reports whether New and Shared install Message DB's own SQL.
func Official() bool { return os.Getenv(officialFolder) != "" }

// New returns the URL of a new database with Message DB for this test alone.
func New(t testing.TB) string {
	t.Helper()
	return NewFrom(t, "", nil)
}

// Empty returns the URL of a new database without Message DB for this test alone.
func Empty(t testing.TB) string {
	t.Helper()
	return pgtest.Database(t, "empty", nil)
}

// Shared returns the URL of a database with Message DB that all tests of this process
// share. To stay independent, each test uses categories of its own.
func Shared(t testing.TB) string {
	t.Helper()
	return SharedFrom(t, "", nil)
}

// NewFrom is like New. If setup is not nil, it runs once for each key in this process, after
// the installation, and the databases are copies of what it leaves.
func NewFrom(t testing.TB, key string, setup func(ctx context.Context, url string) error) string {
	t.Helper()
	name, install := installer()
	return pgtest.Database(t, name+key, then(install, setup))
}

// SharedFrom is like Shared, with a setup as in NewFrom.
func SharedFrom(t testing.TB, key string, setup func(ctx context.Context, url string) error) string {
	t.Helper()
	name, install := installer()
	return pgtest.Shared(t, name+key, then(install, setup))
}

// Pair returns a primary and its hot standby with Message DB, for this test alone. It
// skips the test like pgtest.NeedPrograms.
func Pair(t testing.TB, opts ...pgtest.Option) *pgtest.Pair {
	t.Helper()
	_, install := installer()
	return pgtest.NewPair(t, install, opts...)
}

func then(install func(context.Context, *pgx.Conn) error, setup func(context.Context, string) error) func(context.Context, *pgx.Conn) error {
	if setup == nil {
		return install
	}
	return func(ctx context.Context, conn *pgx.Conn) error {
		if err := install(ctx, conn); err != nil {
			return err
		}
		return setup(ctx, conn.Config().ConnString())
	}
}

// PathDependent returns the URL of a new database whose functions do not name the schema of
// the table and of the functions that they use, like those of Message DB's own script.
func PathDependent(t testing.TB) string {
	t.Helper()
	url := New(t)
	if Official() {
		return url
	}
	conn := Session(t, url)
	if _, err := conn.Exec(t.Context(), forgetSchemas); err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	return url
}

const forgetSchemas = `
DO $do$
DECLARE
	f record;
BEGIN
	FOR f IN
		SELECT prosrc, pg_get_functiondef(oid) AS definition FROM pg_proc
		WHERE pronamespace = 'message_store'::regnamespace AND prolang = (SELECT oid FROM pg_language WHERE lanname = 'plpgsql')
	LOOP
		EXECUTE replace(f.definition, f.prosrc, regexp_replace(f.prosrc, '[[:<:]]message_store[.](?=[a-z_0-9]+[(]|messages)', '', 'g'));
	END LOOP;
END
$do$`

// Notifying returns the URL of a new database with Message DB and the NOTIFY trigger.
func Notifying(t testing.TB) string {
	t.Helper()
	url := New(t)
	conn := Session(t, url)
	if err := schema.InstallNotify(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	return url
}

// Consumers is like New, with the schema of consumers.
func Consumers(t testing.TB) string {
	t.Helper()
	return NewFrom(t, "consumers", installConsumers)
}

// SharedConsumers is like Shared, with the schema of consumers. To stay independent, each
// test uses names of its own for consumers.
func SharedConsumers(t testing.TB) string {
	t.Helper()
	return SharedFrom(t, "consumers", installConsumers)
}

func installConsumers(ctx context.Context, url string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	err = schema.InstallConsumers(ctx, conn)
	if err == nil && Official() { // for tests that configure connections as users do
		_, err = schema.PinSearchPath(ctx, conn)
	}
	return errors.Join(err, conn.Close(ctx))
}

// Session opens a connection outside of any pool, with the search path that Message DB's
// own functions need, until the test ends.
func Session(t testing.TB, url string) *pgx.Conn {
	t.Helper()
	cfg, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	cfg.RuntimeParams["search_path"] = "message_store, public"
	conn, err := pgx.ConnectConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func installer() (name string, install func(context.Context, *pgx.Conn) error) {
	if Official() {
		return "official", InstallOfficial
	}
	return "ours", InstallOurs
}

// InstallOurs installs Message DB with package schema.
func InstallOurs(ctx context.Context, conn *pgx.Conn) error {
	return schema.Install(ctx, conn)
}

// InstallOfficial installs Message DB with the script of its npm package. The script
// requires psql and bash.
func InstallOfficial(ctx context.Context, conn *pgx.Conn) error {
	folder := os.Getenv(officialFolder)
	if folder == "" {
		return fmt.Errorf("testdb: %s is not set, want the folder of the npm package @eventide/message-db", officialFolder)
	}
	cfg := conn.Config()
	cmd := exec.CommandContext(ctx, "bash", filepath.Join(folder, "database", "install.sh"))
	cmd.Env = append(os.Environ(),
		"CREATE_DATABASE=off",
		"DATABASE_NAME="+cfg.Database,
		"PGHOST="+cfg.Host,
		"PGPORT="+strconv.Itoa(int(cfg.Port)),
		"PGUSER="+cfg.User,
		"PGPASSWORD="+cfg.Password,
	)
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("testdb: %s: %w\n%s", cmd, err, output.Bytes())
	}
	return nil
}
