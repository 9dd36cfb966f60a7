// Package testdb gives tests a database with a Message DB in it: the one that
// package schema installs or, to run the same tests on Message DB's own SQL, the
// one that its script installs.
package testdb

import (
	"bytes"
	"context"
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

// officialFolder is where npm's package @eventide/message-db has been unpacked,
// if the tests are to run on it.
const officialFolder = "MDB_TEST_MESSAGE_DB"

// Official tells whether New and Shared install Message DB's own SQL.
func Official() bool { return os.Getenv(officialFolder) != "" }

// New returns the URL of a database of the test's own.
func New(t testing.TB) string {
	t.Helper()
	name, install := installer()
	return pgtest.Database(t, name, install)
}

// Empty returns the URL of a database of the test's own without Message DB.
func Empty(t testing.TB) string {
	t.Helper()
	return pgtest.Database(t, "empty", nil)
}

// Shared returns the URL of a database that the tests of this process share. They
// keep apart by using categories of their own.
func Shared(t testing.TB) string {
	t.Helper()
	name, install := installer()
	return pgtest.Shared(t, name, install)
}

func installer() (name string, install func(context.Context, *pgx.Conn) error) {
	if Official() {
		return "official", InstallOfficial
	}
	return "ours", InstallOurs
}

// InstallOurs installs by package schema.
func InstallOurs(ctx context.Context, conn *pgx.Conn) error {
	return schema.Install(ctx, conn)
}

// InstallOfficial runs the script of Message DB's npm package, which needs psql
// and bash.
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
