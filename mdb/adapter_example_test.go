package mdb_test

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"strings"

	"github.com/messagedb-go/messagedb/mdb"
)

// copyTo writes a copy of a message to another category. The copy always has the same ID, so
// it is written once, however often copyTo is called.
func copyTo(ctx context.Context, store *mdb.Store, category mdb.Category, m mdb.Message) (mdb.Written, error) {
	return store.WriteMessage(ctx, category.Stream(m.Stream.ID()), mdb.ProposedMessage{
		ID:       mdb.DerivedID(m.ID, string(category)),
		Type:     m.Type,
		Data:     m.Data,
		Metadata: m.Metadata,
	}, mdb.Idempotent())
}

// An ID is unique in the database, so a copy of a message needs another one. An ID that is
// derived from that of the message makes it safe to copy again.
func ExampleProposedMessage_copy() {
	ctx := context.Background()
	store, err := mdb.Connect(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer store.Close()

	if _, err := store.WriteMessage(ctx, "sale-7", mdb.NewMessage("Sold", map[string]int{"price": 10})); err != nil {
		fmt.Println(err)
		return
	}
	sold, err := store.GetLastStreamMessage(ctx, "sale-7")
	if err != nil {
		fmt.Println(err)
		return
	}
	for range 2 {
		written, err := copyTo(ctx, store, "archivedSale", sold)
		fmt.Println(written.Position, written.Duplicate, err)
	}
}

var escaper = strings.NewReplacer("%", "%25", "-", "%2D")

// toCategory returns a category for a topic, whose name may contain dashes.
func toCategory(topic string) mdb.Category { return mdb.Category(escaper.Replace(topic)) }

func toTopic(category mdb.Category) (string, error) { return url.PathUnescape(string(category)) }

// The first dash in the name of a stream ends its category, so a category contains none.
// Names from elsewhere have to be escaped, so that different names stay different.
func ExampleCategory_escape() {
	for _, topic := range []string{"orders", "orders-eu", "orders%2Deu"} {
		category := toCategory(topic)
		back, err := toTopic(category)
		fmt.Println(category, category.Stream("7"), back, err)
	}
	// Output:
	// orders orders-7 orders <nil>
	// orders%2Deu orders%2Deu-7 orders-eu <nil>
	// orders%252Deu orders%252Deu-7 orders%2Deu <nil>
}

// payload is data of a message that is no JSON. As an object, clients of other languages can
// read it too.
type payload struct {
	ContentType string `json:"contentType"`
	Body        []byte `json:"body"` // JSON has it in base64
}

// Data is JSON. Bytes of another format, or JSON whose bytes must not change, such as that of
// a signature, need an envelope.
func ExampleProposedMessage_bytes() {
	ctx := context.Background()
	store, err := mdb.Connect(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer store.Close()

	taken := mdb.NewMessage("ImageTaken", payload{"image/gif", []byte("GIF89a")})
	if _, err := store.WriteMessage(ctx, "camera-1", taken); err != nil {
		fmt.Println(err)
		return
	}
	stored, err := store.GetLastStreamMessage(ctx, "camera-1")
	if err != nil {
		fmt.Println(err)
		return
	}
	var image payload
	err = stored.Decode(&image)
	fmt.Println(image.ContentType, string(image.Body), err)
}
