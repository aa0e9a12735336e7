"""langchain-openai against the server."""

import sys

from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel

base, model, embed_model = sys.argv[1:4]
chat = ChatOpenAI(base_url=f"{base}/v1", api_key="none", model=model, temperature=0, max_tokens=40, max_retries=0)
PARIS = "The capital of France is Paris."
assert chat.invoke("What is the capital of France?").content == PARIS
assert "".join(part.content for part in chat.stream("What is the capital of France?")) == PARIS


class Place(BaseModel):
    is_city: bool


place = chat.with_structured_output(Place, method="json_schema").invoke("Is Paris a city?")
assert isinstance(place, Place), place
called = chat.bind_tools([Place], tool_choice="Place", parallel_tool_calls=False).invoke("Is Paris a city?")
assert called.tool_calls[0]["name"] == "Place" and isinstance(called.tool_calls[0]["args"]["is_city"], bool), called
# Texts instead of the tokens of another vocabulary.
embeddings = OpenAIEmbeddings(base_url=f"{base}/v1", api_key="none", model=embed_model, check_embedding_ctx_length=False)
assert len(embeddings.embed_query("a hen")) == 384
print("langchain-openai: invoke, stream, structured output, tools, embeddings")
