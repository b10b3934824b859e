"""Any function of Python with typed parameters, as a tool."""

import asyncio
import inspect
import json
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import pydantic
from pydantic import JsonValue

from ur2.environments.toolbox.base import Said, cut, used
from ur2.environments.toolbox.options import PythonToolOptions
from ur2.errors import InputError
from ur2.plugins import find
from ur2.prompts.tool_calls import ToolSchema
from ur2.types import ToolUse


class PythonTool:
    """A function; a plain one runs in a thread, so that it holds up no episode."""

    def __init__(self, name: str, options: PythonToolOptions) -> None:
        """Imports the function.

        Raises:
            InputError: there is none, or a parameter has no type.
        """
        where = f"environment.toolbox.python.{name}.function"
        function: Any = find(options.function, {}, key=where)
        if not callable(function):
            raise InputError(f"{where}: '{options.function}' cannot be called")
        self._function: Callable[..., Any] = function
        self._options = options
        self._arguments = _model(function, where)
        self._places = options.max_concurrency
        description = inspect.getdoc(function) or f"Calls {name}."
        self.schema = ToolSchema(
            name=name,
            description=description.partition("\n\n")[0],
            parameters=self._arguments.model_json_schema(),
        )

    async def use(self, arguments: Mapping[str, JsonValue], transcript: str) -> ToolUse:
        """Calls; a function that raises or takes too long is `failed`."""
        return await used(self.schema.name, arguments, lambda: self._call(arguments))

    async def _call(self, arguments: Mapping[str, JsonValue]) -> Said:
        try:
            model = self._arguments.model_validate_json(json.dumps(dict(arguments)), strict=True)
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            return Said(text=f"{place}: {first['msg']}", outcome="invalid")
        if self._places == 0:
            reason = f"{self._options.max_concurrency} calls run already"
            return Said(text=reason, outcome="failed")
        given = {name: getattr(model, name) for name in type(model).model_fields}
        try:
            async with asyncio.timeout(self._options.timeout_s):
                result = await self._run(given)
            text = result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)
        except TimeoutError:
            reason = f"no reply within {self._options.timeout_s:g} s"
            return Said(text=reason, outcome="failed")
        except Exception as error:  # noqa: BLE001 someone else's code may raise anything
            reason = cut(f"{type(error).__name__}: {error}", self._options.max_reply_chars)
            return Said(text=reason, outcome="failed")
        return Said(text=cut(text, self._options.max_reply_chars))

    async def _run(self, given: Mapping[str, Any]) -> Any:
        if inspect.iscoroutinefunction(self._function):
            return await self._function(**given)
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Any] = loop.create_future()

        def settle(result: Any, error: BaseException | None) -> None:
            self._places += 1
            if done.done():  # nobody waits any longer
                return
            if error is None:
                done.set_result(result)
            else:
                done.set_exception(error)

        def run() -> None:
            result, error = None, None
            try:
                result = self._function(**given)
            except BaseException as raised:  # noqa: BLE001 an exit must not end the thread unseen
                error = raised if isinstance(raised, Exception) else RuntimeError(repr(raised))
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(settle, result, error)

        self._places -= 1
        # A daemon: a call that never ends must not keep the worker from ending.
        threading.Thread(target=run, name=f"tool-{self.schema.name}", daemon=True).start()
        return await done


def _model(function: Callable[..., Any], where: str) -> type[pydantic.BaseModel]:
    """The arguments of a function as a model."""
    fields: dict[str, Any] = {}
    try:
        signature = inspect.signature(function, eval_str=True)
    except (NameError, TypeError, ValueError) as error:
        raise InputError(f"{where}: its signature cannot be read: {error}") from error
    for name, parameter in signature.parameters.items():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise InputError(f"{where}: parameter '{name}' cannot be given by name")
        if parameter.annotation is parameter.empty:
            raise InputError(f"{where}: parameter '{name}' has no type")
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[name] = (parameter.annotation, default)
    config = pydantic.ConfigDict(extra="forbid", arbitrary_types_allowed=False)
    try:
        model: type[pydantic.BaseModel] = pydantic.create_model(
            "arguments", __config__=config, **fields
        )
        model.model_json_schema()
    except (pydantic.errors.PydanticUserError, NameError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{where}: a parameter's type has no JSON form: {reason}") from error
    return model
