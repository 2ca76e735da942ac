// Package openai owns the JSON shapes of the OpenAI API that the router reads, edits and answers with.
//
// It never decodes a request into a fixed structure that is encoded again: fields it has no name for, their order and
// the digits of their numbers reach the backend as the client wrote them. Member names are compared exactly, as the
// backends do; encoding/json's own decoding into structs ignores case, so that two readers could see two requests.
package openai

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// ChatRequest is the body of a chat completion request, editable member by member.
type ChatRequest struct {
	Model    string
	Messages []Message
	members  []member
}

type member struct {
	name  string
	value json.RawMessage
}

// Message is one message with its text: the content itself, or the text parts of a multi-part content, one a line.
type Message struct{ Role, Text string }

// ParseChatRequest reads a request body.
//
// Errors say in one sentence what a client has to change; none of them quotes a value.
func ParseChatRequest(body []byte) (*ChatRequest, error) {
	if !json.Valid(body) { // the decoder below looks at one value at a time and would miss what stands between
		return nil, errors.New("the request body is not valid JSON")
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	if opening, err := decoder.Token(); err != nil || opening != json.Delim('{') {
		return nil, errors.New("the request body is not a JSON object")
	}
	request, seen := &ChatRequest{}, map[string]json.RawMessage{}
	for decoder.More() {
		name, err := decoder.Token()
		if err != nil {
			return nil, fmt.Errorf("read the request body: %w", err)
		}
		m := member{name: name.(string)} // valid JSON, so a member starts with its name
		if err := decoder.Decode(&m.value); err != nil {
			return nil, fmt.Errorf("read the request body: %w", err)
		}
		if _, twice := seen[m.name]; twice { // readers disagree on which one counts
			return nil, fmt.Errorf("the request body has the member %.40q twice", m.name)
		}
		seen[m.name] = m.value
		request.members = append(request.members, m)
	}
	if json.Unmarshal(seen["model"], &request.Model) != nil || request.Model == "" {
		return nil, errors.New("`model` is missing, empty or not a string")
	}
	var messages []map[string]json.RawMessage
	if json.Unmarshal(seen["messages"], &messages) != nil || len(messages) == 0 {
		return nil, errors.New("`messages` is missing, empty or not a list of objects")
	}
	for i, message := range messages {
		var role string
		if json.Unmarshal(message["role"], &role) != nil {
			role = "" // the backend's to judge; here it is merely not the user
		}
		text, err := contentText(message["content"])
		if err != nil {
			return nil, fmt.Errorf("`messages[%d].content` %w", i, err)
		}
		request.Messages = append(request.Messages, Message{role, text})
	}
	return request, nil
}

// contentText reads a string, a list of parts, null or nothing (an assistant message that only calls tools).
func contentText(content json.RawMessage) (string, error) {
	var text string
	if len(content) == 0 || json.Unmarshal(content, &text) == nil {
		return text, nil
	}
	var parts []map[string]json.RawMessage
	if json.Unmarshal(content, &parts) != nil {
		return "", errors.New("is neither a string nor a list of parts")
	}
	var texts []string
	for i, part := range parts {
		raw, ok := part["text"]
		if !ok {
			continue // an image or a sound
		}
		var partText string
		if json.Unmarshal(raw, &partText) != nil {
			return "", fmt.Errorf("has a part %d whose `text` is not a string", i)
		}
		texts = append(texts, partText)
	}
	return strings.Join(texts, "\n"), nil
}

// RoutingText is what a decision looks at: the last user message, or all other messages if there is none.
func (r *ChatRequest) RoutingText() string {
	texts := make([]string, len(r.Messages))
	for i, message := range slices.Backward(r.Messages) {
		if message.Role == "user" {
			return message.Text
		}
		texts[i] = message.Text
	}
	return strings.Join(texts, "\n")
}

// SetModel replaces the requested model.
func (r *ChatRequest) SetModel(model string) error {
	value, err := json.Marshal(model)
	if err != nil {
		return fmt.Errorf("encode the model name %q: %w", model, err)
	}
	for i := range r.members {
		if r.members[i].name == "model" {
			r.members[i].value = value
		}
	}
	r.Model = model
	return nil
}

// Encode writes the body with its members in the order in which they came.
func (r *ChatRequest) Encode() ([]byte, error) {
	var body bytes.Buffer
	body.WriteByte('{')
	for i, m := range r.members {
		if i > 0 {
			body.WriteByte(',')
		}
		name, err := json.Marshal(m.name)
		if err != nil {
			return nil, fmt.Errorf("encode the member %q: %w", m.name, err)
		}
		body.Write(name)
		body.WriteByte(':')
		body.Write(m.value)
	}
	body.WriteByte('}')
	return body.Bytes(), nil
}

// Usage counts the tokens of one completion.
type Usage struct {
	PromptTokens     int `json:"prompt_tokens"`
	CompletionTokens int `json:"completion_tokens"`
}

// ParseUsage reads the usage of a completion or of one streamed chunk; nil if there is none.
func ParseUsage(body []byte) *Usage {
	var completion struct {
		Usage *Usage `json:"usage"`
	}
	if json.Unmarshal(body, &completion) != nil {
		return nil
	}
	return completion.Usage
}

// ErrorBody is the body of an error answer. Kind is OpenAI's `type`, status the HTTP status.
func ErrorBody(status int, kind, message string) []byte {
	type detail struct {
		Message string `json:"message"`
		Type    string `json:"type"`
		Code    int    `json:"code"`
	}
	return marshal(map[string]detail{"error": {message, kind, status}})
}

// ModelList is the body that answers GET /v1/models; created is in Unix seconds.
func ModelList(ids []string, created int64) []byte {
	type model struct {
		ID      string `json:"id"`
		Object  string `json:"object"`
		Created int64  `json:"created"`
		OwnedBy string `json:"owned_by"`
	}
	data := make([]model, 0, len(ids))
	for _, id := range ids {
		data = append(data, model{id, "model", created, "vllm-semantic-router"})
	}
	return marshal(struct {
		Object string  `json:"object"`
		Data   []model `json:"data"`
	}{"list", data})
}

// marshal encodes values of this file's own types, which hold only strings and integers: it cannot fail.
func marshal(value any) []byte {
	data, err := json.Marshal(value)
	if err != nil {
		return []byte(`{"error":{"message":"the answer could not be encoded","type":"server_error","code":500}}`)
	}
	return data
}
