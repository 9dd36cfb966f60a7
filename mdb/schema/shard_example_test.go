package schema_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

// A database becomes the shard with the number 1. The SQL of the proxy names all shards, in the order of
// their numbers.
func ExampleInstallShard() {
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close(ctx)

	if err := schema.InstallShard(ctx, conn, 1); err != nil {
		log.Panic(err)
	}
	sql, err := schema.ProxySQL("host=shard0 dbname=events", "host=shard1 dbname=events")
	if err != nil {
		log.Panic(err)
	}
	if err := os.WriteFile("proxy.sql", []byte(sql), 0o600); err != nil {
		log.Panic(err)
	}
	fmt.Println("Next: psql -1 -v ON_ERROR_STOP=1 -c '\\getenv password SHARD_PASSWORD' -f proxy.sql")
}

// TestExampleInstallShard checks ExampleInstallShard, twice on one database.
func TestExampleInstallShard(t *testing.T) {
	t.Setenv("DATABASE_URL", testdb.Empty(t))
	t.Chdir(t.TempDir())
	for range 2 {
		if got := testdb.Output(t, ExampleInstallShard); !strings.HasPrefix(got, "Next: psql") {
			t.Errorf("got %q", got)
		}
		if sql, err := os.ReadFile("proxy.sql"); err != nil || !strings.Contains(string(sql), "p1 'host=shard1 dbname=events'") {
			t.Errorf("got the SQL %q, error %v", sql, err)
		}
	}
}
