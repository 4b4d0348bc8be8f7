"""LangChain's OpenAI client against a server whose address is the only argument."""

import sys

from langchain_core.messages import HumanMessage, SystemMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

base = sys.argv[1]
options = {"base_url": f"{base}/v1", "api_key": "none", "model": "tools", "max_retries": 0}
model = ChatOpenAI(max_tokens=8, temperature=0, **options)
messages = [SystemMessage("Be brief."), HumanMessage("hi")]

whole = model.invoke(messages)
assert whole.usage_metadata["output_tokens"] == 8, whole
assert whole.response_metadata["finish_reason"] == "length", whole
streamed = list(model.stream(messages))
assert "".join(chunk.text for chunk in streamed) == whole.text, (streamed, whole)
answers = model.batch([messages, [HumanMessage("other")], messages])
assert answers[0].text == answers[2].text == whole.text
chain = ChatPromptTemplate.from_messages([("system", "Be brief."), ("human", "{word}")]) | model
assert chain.invoke({"word": "hi"}).text == whole.text


class Parcel(BaseModel):
    """A parcel."""

    fragile: bool


form = ChatOpenAI(max_tokens=300, temperature=0, **options).with_structured_output(Parcel, method="json_schema")
assert isinstance(form.invoke(messages), Parcel)


@tool
def add(a: int, b: int) -> int:
    """Adds."""
    return a + b


# Tools are shown to the model; a random one calls none.
shown = model.bind_tools([add]).invoke(messages)
assert shown.usage_metadata["input_tokens"] > whole.usage_metadata["input_tokens"], (shown, whole)
