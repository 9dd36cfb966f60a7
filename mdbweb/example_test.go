package mdbweb_test

import (
	"context"
	"log"
	"net/http"
	"net/http/httptest"
	"os"

	"github.com/messagedb-go/messagedb/mdb"
	"github.com/messagedb-go/messagedb/mdbweb"
)

// The pages are mounted in the server for administrators of a service.
func ExampleNew() {
	store, err := mdb.Connect(context.Background(), os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	token := os.Getenv("ADMIN_TOKEN")
	pages, err := mdbweb.New(store, mdbweb.WithPrefix("/mdb"), mdbweb.WithToken(token), mdbweb.WithHosts("admin.example.com"))
	if err != nil {
		log.Panic(err)
	}
	defer pages.Close()
	mux := http.NewServeMux()
	mux.Handle("/mdb/", pages)
	server := httptest.NewServer(mux)
	defer server.Close()
}
