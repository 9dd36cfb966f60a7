package schema_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

// A program or a migration installs Message DB and the NOTIFY trigger, as the owner of
// the objects. It can be run at every start.
func ExampleInstall() {
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close(ctx)

	if err := schema.Install(ctx, conn); err != nil {
		log.Panic(err)
	}
	if err := schema.InstallNotify(ctx, conn); err != nil { // optional
		log.Panic(err)
	}
	state, err := schema.NotifyStatus(ctx, conn)
	if err != nil {
		log.Panic(err)
	}
	fmt.Println("Message DB is installed, NOTIFY trigger enabled:", state.Enabled)
}

// TestExampleInstall checks the output of ExampleInstall, twice on one database. Without
// an Output comment go test does not run the example, because it needs a database.
func TestExampleInstall(t *testing.T) {
	t.Setenv("DATABASE_URL", testdb.Empty(t))
	const want = "Message DB is installed, NOTIFY trigger enabled: true\n"
	for range 2 {
		if got := testdb.Output(t, ExampleInstall); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
