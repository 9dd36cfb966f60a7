package shop

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/messagedb-go/messagedb/mdb"
)

// Handler serves the shop's customers.
func Handler(store *mdb.Store) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /orders/{id}", func(w http.ResponseWriter, r *http.Request) {
		var order placed
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<16)).Decode(&order); err != nil {
			http.Error(w, "the order is not valid JSON", http.StatusBadRequest)
			return
		}
		answer(w, place(r.Context(), store, r.PathValue("id"), order), http.StatusAccepted, nil)
	})
	mux.HandleFunc("GET /orders/{id}", func(w http.ResponseWriter, r *http.Request) {
		var order struct {
			Customer string `json:"customer"`
			Cents    int64  `json:"cents"`
			State    string `json:"state"`
		}
		err := store.Pool().QueryRow(r.Context(), "SELECT customer, cents, state FROM shop.orders WHERE id = $1", r.PathValue("id")).
			Scan(&order.Customer, &order.Cents, &order.State)
		answer(w, err, http.StatusOK, order)
	})
	return mux
}

// serve listens, and answers requests until it is shut down.
func serve(address string, handler http.Handler) (*http.Server, error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = server.Serve(listener) }()
	fmt.Println("listening on", listener.Addr())
	return server, nil
}

// answer writes the response to a request, or the status that its error has.
func answer(w http.ResponseWriter, err error, status int, body any) {
	switch {
	case err == nil:
		w.WriteHeader(status)
		if body != nil {
			_ = json.NewEncoder(w).Encode(body) // the customer has gone away
		}
	case errors.Is(err, pgx.ErrNoRows):
		http.Error(w, "no such order", http.StatusNotFound)
	case errors.Is(err, errNoAmount), errors.As(err, new(*mdb.ArgumentError)):
		http.Error(w, err.Error(), http.StatusBadRequest)
	case errors.Is(err, mdb.ErrUnavailable):
		http.Error(w, "the store is unavailable, retry later", http.StatusServiceUnavailable)
	default:
		http.Error(w, "internal error", http.StatusInternalServerError)
	}
}
