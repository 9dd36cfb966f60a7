package consumer_test

import (
	"testing"

	"github.com/messagedb-go/messagedb/internal/testdb"
	"github.com/messagedb-go/messagedb/mdb/schema"
)

// TestExamples checks the output of the examples in the documentation. They need a server,
// so go test does not run them itself.
func TestExamples(t *testing.T) {
	store := withConsumers.Store(t)
	// With it, Message DB's own functions work with any search path.
	if _, err := schema.PinSearchPath(t.Context(), store.Pool()); err != nil {
		t.Fatal(err)
	}
	t.Setenv("DATABASE_URL", store.Pool().Config().ConnString())
	t.Setenv("POD_NAME", "visits-0")
	t.Setenv("REPORTS_DATABASE_URL", newState(t).Config().ConnString())
	for name, example := range map[string]struct {
		run  func()
		want string
	}{
		"package":                {Example, "welcome, ann\nended: shutdown\n"},
		"EachQueued":             {ExampleEachQueued, "balance: 42 <nil>\n"},
		"EachTx":                 {ExampleEachTx, "version: 0 <nil>\n"},
		"EachTx_processManager":  {ExampleEachTx_processManager, "60 of 100 paid\n90 of 100 paid\n100 of 100 paid\nthe last position of the shipment: 0 <nil>\n"},
		"Delivery_ID":            {ExampleDelivery_ID, "an email to ann@example.com\nan email to cid@example.com\nhandled: 2 parked: 1\n"},
		"Consumer_Replay":        {ExampleConsumer_Replay, "a label for tea\nparcel-7 is parked at position 1\na label for unicorn\na label for salt\n"},
		"Admin":                  {ExampleAdmin, "goods continues after position 0\nmessages to handle: 3\ntea: 4 <nil>\n"},
		"Operator_WaitForStream": {ExampleOperator_WaitForStream, "Title <nil>\nshutdown\n"},
		"InPositionStream":       {ExampleInPositionStream, "a letter to bob\na letter to cid\nit continues after the last letter: true <nil>\n"},
		"StateIn":                {ExampleStateIn, "visits to rome: 2 <nil>\n"},
		"Consumer_Run":           {ExampleConsumer_Run, "shut down: SIGTERM handled: 1\n"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := testdb.Output(t, example.run); got != example.want {
				t.Errorf("got:\n%s\nwant:\n%s", got, example.want)
			}
		})
	}
}
