package mdbcontainer_test

import (
	"cmp"
	"context"
	"os"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/testcontainers/testcontainers-go"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdbcontainer"
)

// image is the image that the tests run.
var image = cmp.Or(os.Getenv("MDB_TEST_IMAGE"), "postgres:17")

func start(t *testing.T, opts ...testcontainers.ContainerCustomizer) *mdbcontainer.Container {
	t.Helper()
	c, err := mdbcontainer.Run(t.Context(), image, opts...)
	testcontainers.CleanupContainer(t, c)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func open(t *testing.T, c *mdbcontainer.Container, opts ...mdb.StoreOption) *mdb.Store {
	t.Helper()
	s, err := c.Store(t.Context(), opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func write(t *testing.T, s *mdb.Store, stream mdb.StreamName) mdb.Written {
	t.Helper()
	written, err := s.WriteMessage(t.Context(), stream, mdb.NewMessage("Deposited", nil))
	if err != nil {
		t.Fatal(err)
	}
	return written
}

func version(t *testing.T, s *mdb.Store, stream mdb.StreamName) int64 {
	t.Helper()
	v, err := s.StreamVersion(t.Context(), stream)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func query[T any](t *testing.T, c *mdbcontainer.Container, sql string) T {
	t.Helper()
	url, err := c.ConnectionString(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	rows, _ := conn.Query(t.Context(), sql)
	value, err := pgx.CollectOneRow(rows, pgx.RowTo[T])
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return value
}
